"""Paint docs/images/digits.png, the README's picture: every digit in every colour, straight from the shipped model."""

import sys
from pathlib import Path

from omni_worker.models import DIGITS
from omni_worker.models.digits_reader import read
from omni_worker.models.digits_recipe import scoring
from omni_worker.models.digits_recipe.captions import COLOURS, Request
from sheet import Cell, sheet

TARGET = Path(__file__).parents[1] / "docs" / "images" / "digits.png"


def main() -> int:
    """Paint, read, write; returns the exit code."""
    colours = list(COLOURS)
    requests = [
        Request(digit, colours[(digit + row) % len(colours)], "grey" if (digit + row) % 3 == 2 else "black")
        for row in range(4)
        for digit in range(10)
    ]
    cells = []
    for request, picture in zip(
        requests, scoring.paint(scoring.load(DIGITS), [request.caption for request in requests]), strict=True
    ):
        seen = read(picture)
        right = (seen.digit, seen.colour) == (request.digit, request.colour)
        cells.append(Cell(picture, request.caption, f"{seen.colour} {seen.digit}", right))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    subtitle = "32x32 pixels, 4 steps, guidance 2; below each picture: what was asked, and what a classifier reads"
    page = sheet("What builtin://digits paints", subtitle, cells, columns=10)
    page.quantize(256).save(TARGET, optimize=True)
    print(f"{TARGET}: {sum(cell.right for cell in cells)} of {len(cells)} read as asked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
