"""The comparison table, on a terminal, in a log and in Markdown."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from fulgurite.reporting import ComparisonRow, comparison_rows, markdown_table, plain_table, render_table
from fulgurite.reporting.units import format_bytes, format_time

Record = dict[str, Any]

TABLE = """\
stage         bytes   ratio   bits/weight                   retained   verdict           time
reference   24.1 MB    1.0x         32.00                    100.0 %   -                    -
seedlm4     3.10 MB    7.8x          4.12   99.1 % (at least 98.7 %)   accepted          0:54
vptq2       1.65 MB   14.6x          2.19   96.1 % (at least 95.7 %)   accepted, try 2   2:50
hyper       1.10 MB   21.9x          1.46   74.0 % (at least 73.6 %)   rejected twice    1:47
result     runs/books6m/artifact   level vptq2
report     runs/books6m/report.html"""


def printed(record: Record, **options: Any) -> str:
    console = Console(file=io.StringIO(), **options)
    render_table(record, console, report="runs/books6m/report.html")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_rows_hold_what_the_record_says(record: Record) -> None:
    rows = comparison_rows(record)
    # 8 * 1.65e6 / 6_015_360 = 2.194 bits, 24_061_440 / 1.65e6 = 14.58, 2 * 41.2 + 63 + 2 * 12.5 = 170.4 s
    expected = ComparisonRow(
        "vptq2", "1.65 MB", "14.6x", "2.19", "96.1 % (at least 95.7 %)", "accepted, try 2", "2:50"
    )
    assert rows[2] == expected
    assert [row.stage for row in rows] == ["reference", "seedlm4", "vptq2", "hyper"]


def test_plain_lines_are_aligned(record: Record) -> None:
    assert plain_table(record, "runs/books6m/report.html") == TABLE


def test_a_log_file_gets_whole_lines_without_colour(record: Record) -> None:
    assert printed(record, width=40) == TABLE + "\n"  # 40: rich would fold the lines


def test_a_terminal_gets_the_same_cells_in_colour(record: Record) -> None:
    text = printed(record, width=120, force_terminal=True, color_system="standard")
    assert "\x1b[32maccepted, try 2" in text
    assert "\x1b[31mrejected twice" in text
    for row in comparison_rows(record):
        assert row.retained in text
    assert "level vptq2" in text


def test_names_are_not_taken_for_markup(record: Record) -> None:
    record["stages"][0]["name"] = "[red]a|b*"
    assert "[red]a|b*" in printed(record, width=120, force_terminal=True)
    assert "[red]a|b*" in plain_table(record)
    assert "\\[red\\]a\\|b\\*" in markdown_table(record)


def test_markdown_has_a_line_a_stage_and_numbers_to_the_right(record: Record) -> None:
    lines = markdown_table(record).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | --- | ---: |"
    assert lines[4] == (
        "| vptq2 | 1.65 MB | 14.6x | 2.19 | 96.1 % (at least 95.7 %) | accepted, try 2 | 2:50 |"
    )


def test_a_stage_without_a_finished_try_has_dashes(record: Record) -> None:
    stage = record["stages"][2]
    unknown = dict.fromkeys(["num_bytes", "ratio", "bits_per_weight", "retention", "retention_low"])
    stage.update(unknown, tries=[], seconds=0.0)
    row = comparison_rows(record)[3]
    assert row == ComparisonRow("hyper", "-", "-", "-", "-", "no try finished", "0:00")


def test_all_rejected_says_that_the_reference_is_the_result(rejected: Record) -> None:
    closing = plain_table(rejected).splitlines()[-1]
    assert closing == "result     none, the reference stays as it was   level reference"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9996, "10.0 kB"),  # rounds up into the next number of figures
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),  # not "1000 kB"
        (61_000, "61.0 kB"),
        (24_061_440, "24.1 MB"),
        (1_500_000_000, "1.50 GB"),
        (None, "-"),
    ],
)
def test_bytes_have_three_figures_and_a_decimal_unit(num_bytes: int | None, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599.7, "1:00:00")])
def test_times_carry_over(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
