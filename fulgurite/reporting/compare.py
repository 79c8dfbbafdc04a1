"""Runs side by side: what each came to, and whether they can be compared at all.

records -> one column a run, one row a number -> text | Markdown | JSON
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.reporting.deciding import deciding_gate
from fulgurite.reporting.units import (
    UNKNOWN,
    format_bytes,
    format_number,
    format_ratio,
    format_retained,
    format_score,
    format_time,
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunComparison:
    """Runs beside each other.

    Args:
        names: Of the runs, in the order given.
        rows: What a row is, and a cell for each run.
        notes: Why some rows cannot be compared; empty where all can.
        facts: The same numbers for a program, by run.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    facts: Mapping[str, Mapping[str, Any]]

    @property
    def header(self) -> tuple[str, ...]:
        """Of the table."""
        return ("", *self.names)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns stand to the right."""
        return (False, *(True for _ in self.names))


def compare_runs(records: Mapping[str, Record]) -> RunComparison:
    """Put runs side by side.

    Args:
        records: By the name of the run; at least one.

    Raises:
        ValueError: If there is none.
    """
    if not records:
        raise ValueError("expected the records of runs to compare, found none")
    facts = {name: facts_of(record) for name, record in records.items()}
    measures = list(dict.fromkeys(measure for each in facts.values() for measure in each["scores"]))
    rows: list[tuple[str, ...]] = []

    def row(title: str, cell: Callable[[Mapping[str, Any]], str]) -> None:
        cells = [cell(each) for each in facts.values()]
        if any(text != UNKNOWN for text in cells):
            rows.append((title, *cells))

    row("network", lambda each: f"{each['network']}, {each['num_weights']:,} weights")
    row("data", lambda each: UNKNOWN if each["data"] is None else str(each["data"]))
    row("result", lambda each: str(each["level"]))
    row("bytes", lambda each: format_bytes(each["num_bytes"]))
    row("ratio", lambda each: format_ratio(each["ratio"]))
    row("bits/weight", lambda each: format_number(each["bits_per_weight"]))
    row("retained", lambda each: format_retained(each["retention"], each["retention_low"]))
    for measure in measures:
        row(measure, lambda each, measure=measure: _score(each, measure))  # type: ignore[misc]
    row("stages", lambda each: f"{each['accepted_stages']} of {each['stages']} accepted")
    row("tries", lambda each: str(each["tries"]))
    row("time", lambda each: format_time(each["seconds"]))
    row("latency", lambda each: UNKNOWN if each["latency_ms"] is None else f"{each['latency_ms']:.3g} ms")
    row("peak memory", lambda each: format_bytes(each["peak_memory_bytes"]))
    row("hardware", lambda each: each["hardware"] or UNKNOWN)
    return RunComparison(tuple(records), tuple(rows), tuple(_notes(facts)), facts)


def facts_of(record: Record) -> dict[str, Any]:
    """What a run came to, in plain numbers; ``None`` where there is none."""
    result = next((stage for stage in record["stages"] if stage["name"] == record["level"]), None)
    gate = None if result is None else deciding_gate(result)
    scores = {
        name: {"value": score["value"], "unit": score["unit"], "reference": score["value"], "retention": 1.0}
        for name, score in record["reference"].get("scores", {}).items()
    }
    for measure in gate["per_measure"] if gate is not None else ():
        scores[measure["name"]] = {key: measure[key] for key in ("value", "unit", "reference", "retention")}
    efficiency = record.get("efficiency") or {}
    measured = efficiency.get("artifact") or efficiency.get("reference") or {}
    of_result: Mapping[str, Any] = result or {}
    return {
        "network": record["model"]["class"],
        "num_weights": record["model"]["num_weights"],
        "data": record.get("data", {}).get("description"),
        "items": record.get("data", {}).get("windows"),
        "level": record["level"],
        "success": record["success"],
        "num_bytes": of_result.get("num_bytes", record["reference"].get("num_bytes")),
        "ratio": of_result.get("ratio", 1.0),
        "bits_per_weight": of_result.get("bits_per_weight", 32.0),
        "retention": of_result.get("retention", 1.0),
        "retention_low": of_result.get("retention_low", 1.0),
        "scores": scores,
        "stages": len(record["stages"]),
        "accepted_stages": sum(stage["accepted"] for stage in record["stages"]),
        "tries": sum(len(stage["tries"]) for stage in record["stages"]),
        "seconds": record["seconds"],
        "latency_ms": measured.get("latency_p50_ms"),
        "peak_memory_bytes": measured.get("peak_memory_bytes"),
        "hardware": (efficiency.get("hardware") or {}).get("class"),
        "device": record["environment"]["device"],
        "finished": record["finished"] is not None,
    }


def _score(facts: Mapping[str, Any], measure: str) -> str:
    score = facts["scores"].get(measure)
    return UNKNOWN if score is None else format_score(score["value"], score["unit"])


def _notes(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What makes numbers incomparable."""
    notes = []
    for key, what, which in (
        ("network", "networks", "sizes and scores"),
        ("num_weights", "numbers of weights", "sizes and scores"),
        ("data", "data", "scores"),
        ("items", "numbers of held-out items", "scores"),
        ("device", "devices", "times"),
    ):
        found = list(dict.fromkeys(str(each[key]) for each in facts.values()))
        if len(found) > 1:
            notes.append(f"the runs are of different {what} ({', '.join(found)}): {which} are not comparable")
    references: dict[str, set[float]] = {}
    for each in facts.values():
        for name, score in each["scores"].items():
            if score["reference"] is not None:
                references.setdefault(name, set()).add(round(score["reference"], 9))
    differing = sorted(name for name, values in references.items() if len(values) > 1)
    if differing and not notes:
        notes.append(f"the references differ on {', '.join(differing)}: these scores are not comparable")
    notes += [f"{name} has not ended" for name, each in facts.items() if not each["finished"]]
    return notes


def unique_names(folders: Sequence[str]) -> list[str]:
    """Short names for folders: the last part, and more of the path where that is not enough.

    Example:
        >>> unique_names(["runs/a", "runs/b", "old/a"])
        ['runs/a', 'b', 'old/a']
    """
    last = [folder.rstrip("/").rsplit("/", 1)[-1] for folder in folders]
    return [
        name if last.count(name) == 1 else folder.rstrip("/")
        for name, folder in zip(last, folders, strict=True)
    ]
