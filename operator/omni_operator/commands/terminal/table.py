"""Plain-text tables in the style of kubectl: each column as wide as its content, readable for people and for awk."""

from collections.abc import Iterable, Sequence

GAP = "   "


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table. Columns of numbers are aligned to the right; None is shown as a dash."""
    lines = [list(header), *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    """Whether a cell is a dash, or a number that may have a unit: 3, 12.5 ms, 1.25×, 80%."""
    return cell == "-" or cell.partition(" ")[0].rstrip("×%").replace(".", "", 1).isdigit()
