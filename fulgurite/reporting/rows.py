"""Any table on a terminal or in a pipe.

header, rows -> print_rows -> rich's table with colour where it is a terminal, aligned text where it is not
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def print_rows(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    console: Console,
    colours: Mapping[str, str] | None = None,
) -> None:
    """Print a table.

    Args:
        header: Names of the columns.
        rows: Cells, as many a row as there are columns.
        numeric: Which columns stand to the right.
        console: A rich console.
        colours: Of cells, by the word that they begin with.
    """
    if not console.is_terminal:
        text = "\n".join(aligned_rows(header, rows, numeric))
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # one line a row, however wide
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, number in zip(header, numeric, strict=True):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        words = [cell.split(" ", 1)[0].rstrip(",:") for cell in row]
        table.add_row(
            *(Text(cell, style=(colours or {}).get(word, "")) for cell, word in zip(row, words, strict=True))
        )
    console.print(table)


def aligned_rows(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """The lines of a table in which every column is as wide as its widest cell.

    Example:
        >>> aligned_rows(["name", "bytes"], [["a", "5"], ["long", "12"]], [False, True])
        ['name   bytes', 'a          5', 'long      12']
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "   ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
