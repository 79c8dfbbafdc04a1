"""The chapter on checks of behaviour: shares that a stage must keep, beside its gate.

record -> stages[].tries[].checks -> one table
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.reporting.blocks import Block, Table
from fulgurite.reporting.units import UNKNOWN, format_number


def behaviour_blocks(record: Mapping[str, Any]) -> Sequence[Block]:
    """The table; empty where no try has been checked."""
    rows = [
        (
            f"{stage['name']} {attempt['number']}",
            check["name"],
            _share(check),
            _wanted(check),
            check["state"] + ("" if check["sure"] else ", not surely"),
            f"{format_number(check['reference'], 3)} {check['reference_state']}",
            "turned down" if check["rejects"] else "passed" if check["passed"] else "a remark",
        )
        for stage in record["stages"]
        for attempt in stage["tries"]
        for check in attempt.get("checks") or ()
    ]
    if not rows:
        return []
    caption = "Shares with their 95 % intervals; what the reference itself falls short of turns nothing down."
    header = ("try", "check", "share", "wanted", "found", "reference", "outcome")
    return [Table(caption, header, rows, (False, False, True, True, False, True, False))]


def _share(check: Mapping[str, Any]) -> str:
    if check["value"] is None:
        return UNKNOWN
    return f"{check['value']:.3f} [{check['low']:.3f}, {check['high']:.3f}]"


def _wanted(check: Mapping[str, Any]) -> str:
    least, most = check["least"], check["most"]
    return f"at least {least:.2f}" if most >= 1 else f"{least:.2f} to {most:.2f}"
