"""``fulgurite report``: write a run's pages again from its record."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(verb: str, arguments: Sequence[str]) -> int:
    """Write ``report.md``, ``report.html`` and the plots, and print the table."""
    parser = argparse.ArgumentParser(prog=f"fulgurite {verb}", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, with record.json in it")
    given = parser.parse_args(list(arguments))

    from rich.console import Console

    from fulgurite.reporting.record import read_record
    from fulgurite.reporting.report import write_report
    from fulgurite.reporting.table import render_table

    record = read_record(given.run)
    _, page = write_report(given.run)
    render_table(record, Console(highlight=False), report=page)
    return 0
