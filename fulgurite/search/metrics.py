"""The numbers of a run that a search can aim at.

try of record.json or events.jsonl -> metrics_of_try -> {bytes, ratio, retention, score/<measure>, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fulgurite.search.settings import finite


def metrics_of_try(attempt: Mapping[str, Any]) -> dict[str, float]:
    """What a judged try measured; retentions are against the reference, fractions."""
    gate = attempt.get("gate") or {}
    found: dict[str, float | None] = {
        "bytes": attempt["num_bytes"],
        "ratio": attempt["ratio"],
        "bits_per_weight": attempt["bits_per_weight"],
        "retention": gate.get("cumulative"),
        "retention_low": gate.get("cumulative_low"),
    }
    for measure in gate.get("per_measure", []):
        found[f"score/{measure['name']}"] = measure["value"]
        found[f"retention/{measure['name']}"] = measure["retention"]
    return {key: float(value) for key, value in found.items() if value is not None and finite(value)}


def shortfall(attempt: Mapping[str, Any]) -> float:
    """By how much a rejected try missed its gate, above 0; 0 of an accepted one."""
    gate = attempt.get("gate") or {}
    if gate.get("accepted"):
        return 0.0
    pairs = [("needed", "retention_low"), ("cumulative_needed", "cumulative_low")]
    missed = [
        float(gate[needed]) - float(gate[reached])
        for needed, reached in pairs
        if finite(gate.get(needed)) and finite(gate.get(reached))
    ]
    return max([1e-6, *missed])  # rejected for another reason, such as that it saves nothing


def result_of(record: Mapping[str, Any]) -> tuple[dict[str, float], float, str] | None:
    """Metrics of a finished run, by how much it missed its gates, and a sentence.

    Where no stage was accepted, those of the last try that was judged: a search learns from them where not to look.

    Returns:
        ``None`` where no try was judged.
    """
    accepted = [stage["tries"][-1] for stage in record["stages"] if stage["accepted"] and stage["tries"]]
    judged = [attempt for stage in record["stages"] for attempt in stage["tries"] if attempt.get("gate")]
    if not accepted and not judged:
        return None
    attempt = (accepted or judged)[-1]
    metrics = {**metrics_of_try(attempt), "seconds": float(record["seconds"])}
    missed = 0.0 if accepted else shortfall(attempt)
    reason = "" if accepted else f"every stage was rejected: {attempt['gate']['reason']}"
    return metrics, missed, reason
