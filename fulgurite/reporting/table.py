"""The table that compares the stages: reference first, then what each stage made of it.

record -> comparison_rows -> render_table (terminal) | plain_table (pipe, log file) | markdown_table
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulgurite.reporting.units import (
    UNKNOWN,
    format_bytes,
    format_number,
    format_ratio,
    format_retained,
    format_time,
)

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("stage", "bytes", "ratio", "bits/weight", "retained", "verdict", "time")
NUMERIC = (False, True, True, True, True, False, True)
"""Which columns are numbers, and stand to the right."""

_TIMES = {1: "", 2: " twice"}


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the table, each cell as it is printed."""

    stage: str
    num_bytes: str
    ratio: str
    bits_per_weight: str
    retained: str
    verdict: str
    time: str


def comparison_rows(record: Mapping[str, Any]) -> list[ComparisonRow]:
    """The table's lines: the reference in fp32, then the stages in order.

    A rejected stage shows its last try. ``retained`` is against the reference, with the lower bound that
    the gate decided on.

    Args:
        record: As ``read_record`` gives it.
    """
    reference = format_bytes(record["reference"]["num_bytes"])
    rows = [ComparisonRow("reference", reference, "1.0x", "32.00", "100.0 %", UNKNOWN, UNKNOWN)]
    for stage in record["stages"]:
        row = ComparisonRow(
            stage["name"],
            format_bytes(stage["num_bytes"]),
            format_ratio(stage["ratio"]),
            format_number(stage["bits_per_weight"]),
            format_retained(stage["retention"], stage["retention_low"]),
            verdict(stage),
            format_time(stage["seconds"]),
        )
        rows.append(row)
    return rows


def verdict(stage: Mapping[str, Any]) -> str:
    """What became of a stage, in one or two words."""
    tries = len(stage["tries"])
    if tries == 0:
        return "accepted" if stage["accepted"] else "no try finished"
    if stage["accepted"]:
        return "accepted" if tries == 1 else f"accepted, try {tries}"
    return "rejected" + _TIMES.get(tries, f" {tries} times")


def closing_lines(record: Mapping[str, Any], report: str | Path | None = None) -> list[str]:
    """Where the result lies, and the report.

    Args:
        record: As ``read_record`` gives it.
        report: Path of the report; no line for it where there is none.
    """
    artifact = record["artifact"]
    path = "none, the reference stays as it was" if artifact is None else artifact["path"]
    lines = [f"result     {path}   level {record['level']}"]
    return lines if report is None else [*lines, f"report     {report}"]


def plain_table(record: Mapping[str, Any], report: str | Path | None = None) -> str:
    """The table as aligned text without colour, for a pipe or a log file."""
    rows = [COLUMNS, *map(astuple, comparison_rows(record))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "   ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, NUMERIC, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *closing_lines(record, report)])


def markdown_table(record: Mapping[str, Any]) -> str:
    """The table in GitHub's Markdown."""
    return markdown_rows(COLUMNS, [astuple(row) for row in comparison_rows(record)], NUMERIC)


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Any table in GitHub's Markdown; cells are escaped.

    Args:
        header: Names of the columns.
        rows: Cells, as many a row as there are columns.
        numeric: Which columns stand to the right.
    """
    rules = ["---:" if number else "---" for number in numeric]
    lines = [[escape_markdown(cell) for cell in header], rules]
    lines += [[escape_markdown(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no new column."""
    text = " ".join(text.split()).replace("\\", "\\\\")
    for sign in "`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;")


def render_table(record: Mapping[str, Any], console: Console, *, report: str | Path | None = None) -> None:
    """Print the table, with colour where the console is a terminal and plain where it is not.

    Args:
        record: As ``read_record`` gives it.
        console: A rich console.
        report: Path of the report, for the last line.
    """
    from rich.table import Table
    from rich.text import Text

    if not console.is_terminal:
        text = plain_table(record, report)
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # one line a row, however wide
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for column, number in zip(COLUMNS, NUMERIC, strict=True):
        table.add_column(column, justify="right" if number else "left", no_wrap=column != "verdict")
    for row in comparison_rows(record):
        colour = {"a": "green", "r": "red", "n": "red"}.get(row.verdict[0], "")
        cells = [Text(cell, style=colour if name == "verdict" else "") for name, cell in vars(row).items()]
        table.add_row(*cells)
    console.print(table)
    for line in closing_lines(record, report):
        console.print(Text(line), soft_wrap=True)
