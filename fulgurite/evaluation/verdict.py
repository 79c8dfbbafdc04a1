"""What a gate found: numbers, one sentence, and plain JSON of both.

A number is ``None`` where there is none, as for a network that diverged; NaN and infinity never occur.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["none", "mild", "severe"]
FloorBy = Literal["bound", "test"]


@dataclass(frozen=True)
class MeasureVerdict:
    """One measure of a candidate against the reference.

    Args:
        name: Name of the measure.
        value: Score of the candidate; ``None`` where it diverged.
        reference: Score of the reference on the same items.
        chance: Score of a network that knows nothing of the context.
        retention: ``(value - chance) / (reference - chance)``; ``None`` where it means nothing.
        low: One-sided lower bound of the retention at the gate's confidence.
        high: One-sided upper bound at the same confidence.
        raw_ratio: Ratio of the scores, chance not subtracted.
        informative: Whether the reference is surely better than chance; if not, the measure decides nothing.
        unit: Unit of the scores; with ``"%"`` they are fractions.
        items: Number of items that were compared.
        weight: How much the measure counts in the mean, 0 to 1; ``None`` where it does not.
        test: What ``p`` is by: ``"mcnemar"`` for items that are right or wrong, else ``"bootstrap"``.
        p: One-sided p-value of the loss against the reference, if there were none.
        p_holm: The same with Holm's correction over the informative measures.
        floor_by: What the floor is held against: ``"bound"``, the lower bound; ``"test"``, where the items are too
            few for that, the retention itself and that the loss is real. ``None`` where nothing is.
    """

    name: str
    value: float | None
    reference: float
    chance: float
    retention: float | None
    low: float | None
    high: float | None
    raw_ratio: float | None
    informative: bool
    unit: str
    items: int | None = None
    weight: float | None = None
    test: str | None = None
    p: float | None = None
    p_holm: float | None = None
    floor_by: FloorBy | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome of a gate.

    Args:
        accepted: Whether the candidate may take the place of the last accepted stage.
        needed: What ``retention_low`` had to reach.
        retention: Weighted mean retention against the last accepted stage, over the informative measures.
        retention_low: Its one-sided lower confidence bound.
        cumulative: The same against the reference.
        cumulative_low: Its one-sided lower confidence bound.
        cumulative_needed: What ``cumulative_low`` had to reach.
        severity: ``"none"`` where accepted or where nothing could be decided, else ``"mild"`` or
            ``"severe"``.
        reason: One sentence with the numbers that decided.
        per_measure: One entry a measure, against the reference.
        retention_high: One-sided upper confidence bound of ``retention``.
        cumulative_high: The same of ``cumulative``.
        failed_checks: Checks of behaviour that turned down a candidate whose scores hold; empty where they do not.
    """

    accepted: bool
    needed: float
    retention: float | None
    retention_low: float | None
    cumulative: float | None
    cumulative_low: float | None
    cumulative_needed: float
    severity: Severity
    reason: str
    per_measure: tuple[MeasureVerdict, ...]
    retention_high: float | None = None
    cumulative_high: float | None = None
    failed_checks: tuple[str, ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether a score of the candidate is not a number."""
        return any(measure.value is None for measure in self.per_measure)

    @property
    def undecided(self) -> bool:
        """Whether no measure was informative, so that another try would decide as little."""
        return not any(measure.informative for measure in self.per_measure)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        record = asdict(self)
        record["per_measure"] = [asdict(measure) for measure in self.per_measure]
        record["failed_checks"] = list(self.failed_checks)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Verdict:
        """Invert ``to_dict``.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        fields = dict(record)
        fields["per_measure"] = tuple(MeasureVerdict(**measure) for measure in record.get("per_measure", ()))
        fields["failed_checks"] = tuple(record.get("failed_checks", ()))
        return cls(**fields)
