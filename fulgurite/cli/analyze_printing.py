"""An analysis on the terminal."""

from __future__ import annotations

from pathlib import Path

from fulgurite.analysis.pages import Result
from fulgurite.reporting.rows import print_rows

_COLOURS = {"better": "green", "worse": "red"}


def print_result(result: Result, page: Path | None = None) -> None:
    """Its tables, and where its page lies."""
    from rich.console import Console

    console = Console(highlight=False)
    for table in result.tables:
        print_rows(table.header, table.rows, table.numeric, console, _COLOURS)
        console.print()
    if page is not None:
        console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
