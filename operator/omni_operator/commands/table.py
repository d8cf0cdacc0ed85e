"""Tables as kubectl prints them: columns of plain text, as wide as what they hold, for people and for awk."""

from collections.abc import Iterable, Sequence

GAP = "   "


def columns(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table. Cells that are numbers stand at the right of their column; None is a dash."""
    table = [list(header), *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    is_number = [all(_is_number(cell) for cell in column[1:]) for column in zip(*table, strict=True)]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in table
    )


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.partition(" ")[0].rstrip("×%").replace(".", "", 1).isdigit()
