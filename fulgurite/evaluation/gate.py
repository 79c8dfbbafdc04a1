"""Whether a compressed network is good enough to go on with.

    reference, previous, candidate measures -> retention per measure -> mean -> lower bound -> verdict

Three questions, each answered by a one-sided lower confidence bound and not by a point: a lucky sample does
not pass, and fewer items make the gate stricter, not looser.

    stage       did this stage keep enough of the last accepted one?     mean over informative measures
    cumulative  is enough of the reference left? many small drops add up  mean over informative measures
    floor       is enough of the reference left on *each* measure?        informative measures, one by one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fulgurite.evaluation.measure import Measure, check_paired, raw_ratio
from fulgurite.evaluation.sentence import explain, explain_chance, explain_divergence
from fulgurite.evaluation.statistics import (
    Floats,
    gap_draws,
    informative,
    lower_bound,
    retained,
    upper_bound,
)
from fulgurite.evaluation.verdict import MeasureVerdict, Severity, Verdict


@dataclass(frozen=True)
class Gate:
    """Thresholds on retention, all fractions in (0, 1].

    A rejected candidate is *severe* where, on the point estimates, the stage or the whole lost more than
    twice what it was allowed to (needs 0.98: under 0.96), or a measure lies under the floor, or the network
    diverged. Else it is *mild*: close by, or only not certain.

    Args:
        stage_retention: Needed against the last accepted stage: entry ``i`` for stage ``i``, the last entry
            for all later ones.
        cumulative: Needed against the reference.
        floor: Needed against the reference on each single measure.
        confidence: Of the one-sided bounds, in (0.5, 1).
        resamples: Bootstrap draws, at least 100.
        seed: Of the draws; equal seeds give equal verdicts.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> quiz = Measure("quiz", np.tile([1, 1, 0, 1], 50), np.ones(200), np.full(200, 0.25), True, "%")
        >>> Gate().decide([quiz], [quiz], [quiz], stage_index=0).reason
        'retained 100.0 % (at least 100.0 %), needs 98 %'
    """

    stage_retention: tuple[float, ...] = (0.98, 0.95, 0.90)
    cumulative: float = 0.84
    floor: float = 0.80
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stage_retention:
            raise ValueError("stage_retention must have at least one entry, got none")
        for name, value in (
            *(("stage_retention", value) for value in self.stage_retention),
            ("cumulative", self.cumulative),
            ("floor", self.floor),
        ):
            _check_threshold(name, value)
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must be in (0.5, 1), got {self.confidence}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")

    def informed_by(self, reference: Measure) -> bool:
        """Whether a measure of the reference decides anything: it is surely better than chance."""
        return informative(reference, self.confidence, self.resamples, self.seed)

    def decide(
        self,
        reference: Sequence[Measure],
        previous: Sequence[Measure],
        candidate: Sequence[Measure],
        stage_index: int,
        needed: float | None = None,
    ) -> Verdict:
        """Judge a candidate. A bad network gets a bad verdict, never an exception.

        Args:
            reference: Measures of the network before any compression.
            previous: Measures of the last accepted stage; those of the reference before there is one.
            candidate: Measures of the network to judge, of the same items in the same order.
            stage_index: Place of the stage in the cascade, from 0.
            needed: Takes the place of this stage's entry in ``stage_retention``.

        Raises:
            ValueError: If the three are not of the same items, or the reference or previous one is not
                finite.
        """
        _check_sequences(reference, previous, candidate)
        if needed is None:
            if stage_index < 0:
                raise ValueError(f"stage_index must be at least 0, got {stage_index}")
            needed = self.stage_retention[min(stage_index, len(self.stage_retention) - 1)]
        _check_threshold("needed", needed)
        useful = [self.informed_by(measure) for measure in reference]
        diverged = [measure for measure in candidate if measure.num_not_finite]
        if diverged or not any(useful):
            severity: Severity = "severe" if diverged else "none"
            reason = explain_divergence(diverged) if diverged else explain_chance(reference)
            trio = zip(reference, candidate, useful, strict=True)
            unmeasured = tuple(_measure_verdict(ref, cand, None, counts) for ref, cand, counts in trio)
            return Verdict(
                False, needed, None, None, None, None, self.cumulative, severity, reason, unmeasured
            )

        stage, total = [], []  # per informative measure: the point, then the draws, [1 + resamples]
        per_measure = []
        for ref, prev, cand, counts in zip(reference, previous, candidate, useful, strict=True):
            bounds = None
            if counts:
                against_previous, against_reference = self._retentions(ref, prev, cand)
                stage.append(against_previous)
                total.append(against_reference)
                bounds = self._bounds(against_reference)
            per_measure.append(_measure_verdict(ref, cand, bounds, counts))
        retention, retention_low, _ = self._bounds(np.mean(stage, axis=0))
        cumulative, cumulative_low, _ = self._bounds(np.mean(total, axis=0))
        under_floor = [m for m in per_measure if m.informative and _under(m.low, self.floor)]
        accepted = retention_low >= needed and cumulative_low >= self.cumulative and not under_floor
        severe = (
            1 - retention > 2 * (1 - needed)
            or 1 - cumulative > 2 * (1 - self.cumulative)
            or any(_under(m.retention, self.floor) for m in under_floor)
        )
        return Verdict(
            accepted=accepted,
            needed=needed,
            retention=_finite(retention),
            retention_low=_finite(retention_low),
            cumulative=_finite(cumulative),
            cumulative_low=_finite(cumulative_low),
            cumulative_needed=self.cumulative,
            severity="none" if accepted else "severe" if severe else "mild",
            reason=explain(
                (retention, retention_low, needed),
                (cumulative, cumulative_low, self.cumulative),
                under_floor,
                self.floor,
            ),
            per_measure=tuple(per_measure),
        )

    def _retentions(self, ref: Measure, prev: Measure, cand: Measure) -> tuple[Floats, Floats]:
        """Retention against previous and reference: the point, then the draws, ``[1 + resamples]`` each."""
        chance = ref.at_chance()
        pairs = [(prev, cand), (prev, chance), (ref, cand), (ref, chance)]
        points = np.stack([one.gap(other) for one, other in pairs], 1)
        gaps = np.concatenate([points, gap_draws(pairs, self.resamples, self.seed)])
        return retained(gaps[:, 0], gaps[:, 1]), retained(gaps[:, 2], gaps[:, 3])

    def _bounds(self, draws: Floats) -> tuple[float, float, float]:
        """Point, lower and upper bound."""
        sample = draws[1:]
        return float(draws[0]), lower_bound(sample, self.confidence), upper_bound(sample, self.confidence)


def _measure_verdict(
    ref: Measure, cand: Measure, bounds: tuple[float, float, float] | None, counts: bool
) -> MeasureVerdict:
    point, low, high = bounds if bounds is not None else (None, None, None)
    return MeasureVerdict(
        name=ref.name,
        value=_finite(cand.value),
        reference=ref.value,
        chance=ref.chance,
        retention=_finite(point),
        low=_finite(low),
        high=_finite(high),
        raw_ratio=_finite(raw_ratio(ref, cand)),
        informative=counts,
        unit=ref.unit,
    )


def _check_sequences(
    reference: Sequence[Measure], previous: Sequence[Measure], candidate: Sequence[Measure]
) -> None:
    if not reference or not len(reference) == len(previous) == len(candidate):
        raise ValueError(
            "reference, previous and candidate must have the same measures, at least one, "
            f"got {len(reference)}, {len(previous)} and {len(candidate)}"
        )
    for ref, prev, cand in zip(reference, previous, candidate, strict=True):
        check_paired(ref, prev)
        check_paired(ref, cand)
        for who, measure in (("reference", ref), ("previous", prev)):
            if measure.num_not_finite:
                raise ValueError(
                    f"{ref.name}: items of {who} must be finite, got {measure.num_not_finite} that are not"
                )


def _check_threshold(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _under(value: float | None, floor: float) -> bool:
    return value is None or value < floor
