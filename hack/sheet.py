"""A sheet of images with captions: the prompt, the image, and whether a classifier reads what the prompt says."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # drawn at twice the nominal size, for sharp text on any screen
PAPER, CARD, EDGE = "#f3f4f6", "#ffffff", "#d9dce1"
TEXT, FAINT, GOOD, BAD = "#16181d", "#6b7280", "#15803d", "#b91c1c"
IMAGE_SIZE, PAD, GAP, LINE = 128, 10, 12, 17


@dataclass(frozen=True)
class Cell:
    """An image and its prompt. `reading` is what the classifier read, None if it was not used."""

    image: Image.Image
    caption: str
    reading: str | None = None
    is_right: bool = False


def sheet(title: str, subtitle: str, cells: Sequence[Cell], columns: int) -> Image.Image:
    """The cells in rows under a title. Images are enlarged without smoothing."""
    caption_lines = max(len(wrapped(cell.caption)) for cell in cells)
    has_readings = any(cell.reading is not None for cell in cells)
    height = PAD + IMAGE_SIZE + 6 + LINE * caption_lines + (4 + LINE if has_readings else 0) + PAD // 2
    width = IMAGE_SIZE + 2 * PAD
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
    """Draw one cell at the nominal position (x, y)."""
    pen.rounded_rectangle(box(x, y, x + width, y + height), SCALE * 6, CARD, EDGE, SCALE)
    page.paste(
        cell.image.resize((SCALE * IMAGE_SIZE,) * 2, Image.Resampling.NEAREST), (SCALE * (x + PAD), SCALE * (y + PAD))
    )
    line = y + PAD + IMAGE_SIZE + 6
    for text in wrapped(cell.caption):
        pen.text((SCALE * (x + PAD), SCALE * line), text, TEXT, font(12))
        line += LINE
    if cell.reading is not None:
        line = y + height - LINE - PAD // 2
        colour = GOOD if cell.is_right else BAD
        draw_mark(pen, x + PAD, line + 2, cell.is_right, colour)
        pen.text((SCALE * (x + PAD + 16), SCALE * line), cell.reading, colour, font(12))


def draw_mark(pen: ImageDraw.ImageDraw, x: int, y: int, is_right: bool, colour: str) -> None:
    """Draw a tick or a cross, 11 pixels wide, as lines, because not every font has these characters."""
    strokes = [[(1, 6), (4, 10), (11, 1)]] if is_right else [[(1, 1), (10, 10)], [(1, 10), (10, 1)]]
    for stroke in strokes:
        pen.line([(SCALE * (x + dx), SCALE * (y + dy)) for dx, dy in stroke], colour, 2 * SCALE, "curve")


def wrapped(caption: str) -> list[str]:
    """The lines of a caption, as wide as an image."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(12).getlength(longer) > SCALE * IMAGE_SIZE:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's scalable default font at a nominal size."""
    return ImageFont.load_default(SCALE * size)


def box(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
    """The pixels of a nominal box."""
    return SCALE * left, SCALE * top, SCALE * right, SCALE * bottom
