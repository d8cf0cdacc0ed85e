"""A captioned sheet of pictures: what was asked for, what came back, and whether a reader agrees."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # Drawn at twice the nominal size, for sharp text on any screen.
PAPER, CARD, EDGE = "#f3f4f6", "#ffffff", "#d9dce1"
TEXT, FAINT, GOOD, BAD = "#16181d", "#6b7280", "#15803d", "#b91c1c"
PICTURE, PAD, GAP, LINE = 128, 10, 12, 17


@dataclass(frozen=True)
class Cell:
    """One picture with what was asked; `read_as` is None where nobody read it."""

    picture: Image.Image
    caption: str
    read_as: str | None = None
    right: bool = False


def sheet(title: str, subtitle: str, cells: Sequence[Cell], columns: int) -> Image.Image:
    """Lay out cells row by row under a title; pictures are enlarged without smoothing."""
    caption_lines = max(len(wrapped(cell.caption)) for cell in cells)
    read = any(cell.read_as is not None for cell in cells)
    height = PAD + PICTURE + 6 + LINE * caption_lines + (4 + LINE if read else 0) + PAD // 2
    width = PICTURE + 2 * PAD
    rows = -(-len(cells) // columns)
    top = 70
    page = Image.new(
        "RGB",
        (
            SCALE * (GAP + columns * (width + GAP)),
            SCALE * (top + rows * (height + GAP)),
        ),
        PAPER,
    )
    pen = ImageDraw.Draw(page)
    pen.text((SCALE * GAP, SCALE * 12), title, TEXT, font(22))
    pen.text((SCALE * GAP, SCALE * 42), subtitle, FAINT, font(13))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        draw_cell(page, pen, cell, GAP + column * (width + GAP), top + row * (height + GAP), width, height)
    return page


def draw_cell(page: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, x: int, y: int, width: int, height: int) -> None:
    """One card at nominal position (x, y)."""
    pen.rounded_rectangle(box(x, y, x + width, y + height), SCALE * 6, CARD, EDGE, SCALE)
    page.paste(
        cell.picture.resize((SCALE * PICTURE,) * 2, Image.Resampling.NEAREST), (SCALE * (x + PAD), SCALE * (y + PAD))
    )
    line = y + PAD + PICTURE + 6
    for text in wrapped(cell.caption):
        pen.text((SCALE * (x + PAD), SCALE * line), text, TEXT, font(12))
        line += LINE
    if cell.read_as is not None:
        line = y + height - LINE - PAD // 2
        colour = GOOD if cell.right else BAD
        mark(pen, x + PAD, line + 2, cell.right, colour)
        pen.text((SCALE * (x + PAD + 16), SCALE * line), cell.read_as, colour, font(12))


def mark(pen: ImageDraw.ImageDraw, x: int, y: int, right: bool, colour: str) -> None:
    """A tick or a cross, 11 wide; drawn, because not every font has them."""
    strokes = [[(1, 6), (4, 10), (11, 1)]] if right else [[(1, 1), (10, 10)], [(1, 10), (10, 1)]]
    for stroke in strokes:
        pen.line([(SCALE * (x + dx), SCALE * (y + dy)) for dx, dy in stroke], colour, 2 * SCALE, "curve")


def wrapped(caption: str) -> list[str]:
    """A caption in lines as wide as a picture."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(12).getlength(longer) > SCALE * PICTURE:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font, at a nominal size."""
    return ImageFont.load_default(SCALE * size)


def box(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
    """A nominal box in pixels."""
    return SCALE * left, SCALE * top, SCALE * right, SCALE * bottom
