"""Generates docs/images/digits.png, the image in the README: every digit in every colour, from the built-in model."""

import sys
from pathlib import Path

from omni_worker.models import DIGITS
from omni_worker.models.digits_reader import read
from omni_worker.models.digits_recipe import scoring
from omni_worker.models.digits_recipe.captions import COLOURS, Request
from sheet import Cell, sheet

TARGET = Path(__file__).parents[1] / "docs" / "images" / "digits.png"


def main() -> int:
    """Generate the images, read them with the classifier, and write the sheet."""
    colours = list(COLOURS)
    requests = [
        Request(digit, colours[(digit + row) % len(colours)], "grey" if (digit + row) % 3 == 2 else "black")
        for row in range(4)
        for digit in range(10)
    ]
    cells = []
    for request, image in zip(
        requests, scoring.paint(scoring.load(DIGITS), [request.caption for request in requests]), strict=True
    ):
        reading = read(image)
        is_right = (reading.digit, reading.colour) == (request.digit, request.colour)
        cells.append(Cell(image, request.caption, f"{reading.colour} {reading.digit}", is_right))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    subtitle = "32x32 pixels, 4 steps, guidance 2; below each picture: what was asked, and what a classifier reads"
    page = sheet("What builtin://digits paints", subtitle, cells, columns=10)
    page.quantize(256).save(TARGET, optimize=True)
    print(f"{TARGET}: {sum(cell.is_right for cell in cells)} of {len(cells)} read as asked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
