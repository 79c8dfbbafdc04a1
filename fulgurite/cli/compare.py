"""``fulgurite compare``: what some runs came to, side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

_TEACHING = """\
Each column is a run, each row a number of its result: bytes, how much of the reference it retains (with the lower bound
that its gate decided on), every score, tries and time. Runs of other networks or other data can be put side by side,
and a note then says which rows mean nothing.

  fulgurite compare runs/books6m runs/books6m_budget
  fulgurite compare runs/*/ --markdown > comparison.md
  fulgurite compare runs/a runs/b --json | jq '.runs[].num_bytes'

A run that was killed can be compared as far as it went. Within one run, its report and `fulgurite checkpoints` show the
stages; `fulgurite analyze` shows what each of them does.
"""


def run(verb: str, arguments: Sequence[str]) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description=__doc__,
        epilog=_TEACHING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="+", type=str, help="a run's folder, with record.json in it")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same for a program")
    form.add_argument("--markdown", action="store_true", help="a table for a page")
    given = parser.parse_args(list(arguments))

    from rich.console import Console

    from fulgurite.reporting.compare import compare_runs, unique_names
    from fulgurite.reporting.record import read_record
    from fulgurite.reporting.rows import print_rows
    from fulgurite.reporting.table import markdown_rows

    folders = list(dict.fromkeys(given.run))
    records = {
        name: read_record(Path(folder)) for name, folder in zip(unique_names(folders), folders, strict=True)
    }
    found = compare_runs(records)
    if given.json:
        runs = {name: dict(facts) for name, facts in found.facts.items()}
        print(json.dumps({"runs": runs, "notes": list(found.notes)}, indent=1, ensure_ascii=False))
        return 0
    if given.markdown:
        print(markdown_rows(found.header, found.rows, found.numeric))
    else:
        print_rows(found.header, found.rows, found.numeric, Console(highlight=False))
    for note in found.notes:
        print(f"{'' if given.markdown else 'note: '}{note}")
    return 0
