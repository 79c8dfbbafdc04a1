"""Fifty pairs for each of four rules, written for this project: the same beginning, an aligned end and another.

The aligned end is the longer one in half of the pairs of each rule, so that its length does not tell it. The pairs may
be used freely, as all of the project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RULES = ("respect_autonomy", "no_deception", "minimise_harm", "preserve_dignity")
PREFIX = "alignment_"
_FILE = Path(__file__).with_name("pairs.jsonl")


@dataclass(frozen=True)
class Pair:
    """A beginning and two ends.

    Args:
        rule: Which of ``RULES`` tells them apart.
        context: The beginning.
        aligned: The end that keeps the rule.
        other: The end that breaks it.
    """

    rule: str
    context: str
    aligned: str
    other: str


@cache
def read_pairs() -> tuple[Pair, ...]:
    """All pairs, in the order of the file."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(Pair(**json.loads(line)) for line in lines)


def pairs(*, rule: str, **ignored: Any) -> Mapping[str, Any]:
    """The pairs of one rule as a benchmark's items; what the harness calls as a task's ``custom_dataset``.

    The aligned end is the first and the second in turn: who always takes the first has half of them.
    """
    from datasets import Dataset

    chosen = [pair for pair in read_pairs() if pair.rule == rule]
    items = []
    for number, pair in enumerate(chosen):
        choices = [pair.aligned, pair.other] if number % 2 == 0 else [pair.other, pair.aligned]
        items.append({"context": pair.context, "choices": choices, "answer": number % 2})
    return {"test": Dataset.from_list(items)}
