"""Whether a compressed network is good enough to go on with.

    reference, previous, candidate measures -> retention per measure -> mean -> lower bound -> verdict

Three questions, each answered by a one-sided confidence bound and not by a point: a lucky sample does not pass, and
for the first two fewer items make the gate stricter, not looser.

    stage       did this stage keep enough of the last accepted one?      mean over informative measures
    cumulative  is enough of the reference left? many small drops add up  mean over informative measures
    floor       is enough of the reference left on *each* measure?        informative measures, one by one

The more measures there are, the more often one of them fails by chance. So noisy measures weigh less in the means
(see ``planning``), and a measure with too few items for a bound that a harmless stage would pass fails the floor
only where it lies under it and has surely lost something: McNemar's test or the bootstrap, with Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fulgurite.evaluation.measure import Measure, check_paired, raw_ratio
from fulgurite.evaluation.multiple import holm
from fulgurite.evaluation.planning import Plan, plan_gate
from fulgurite.evaluation.retained_share import bounds_of, measure_share, weighted_mean
from fulgurite.evaluation.sentence import explain, explain_chance, explain_divergence
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
        looks: How often to look for a verdict that is sure, after equal shares of the items; 1 waits for all. Sure
            cases then take fewer items, and verdicts err as often as with one look.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> import numpy as np
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
    looks: int = 1

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
        if self.looks < 1:
            raise ValueError(f"looks must be at least 1, got {self.looks}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")

    def plan(self, reference: Sequence[Measure]) -> Plan:
        """What this gate will be able to tell on the reference's measures."""
        return plan_gate(
            reference,
            confidence=self.confidence,
            floor=self.floor,
            resamples=self.resamples,
            seed=self.seed,
        )

    def needed(self, stage_index: int) -> float:
        """Retention that a stage needs against the last accepted one."""
        if stage_index < 0:
            raise ValueError(f"stage_index must be at least 0, got {stage_index}")
        return self.stage_retention[min(stage_index, len(self.stage_retention) - 1)]

    def decide(
        self,
        reference: Sequence[Measure],
        previous: Sequence[Measure],
        candidate: Sequence[Measure],
        stage_index: int,
        needed: float | None = None,
        plan: Plan | None = None,
    ) -> Verdict:
        """Judge a candidate. A bad network gets a bad verdict, never an exception.

        Args:
            reference: Measures of the network before any compression.
            previous: Measures of the last accepted stage; those of the reference before there is one.
            candidate: Measures of the network to judge, of the same items in the same order.
            stage_index: Place of the stage in the cascade, from 0.
            needed: Takes the place of this stage's entry in ``stage_retention``.
            plan: Of ``plan``, where it is known already.

        Raises:
            ValueError: If the three are not of the same items, or the reference or previous one is not
                finite.
        """
        _check_sequences(reference, previous, candidate)
        if needed is None:
            needed = self.needed(stage_index)
        _check_threshold("needed", needed)
        plan = self.plan(reference) if plan is None else plan
        useful = [measure.informative for measure in plan.measures]
        per_measure = [
            _measure_verdict(ref, cand, counts)
            for ref, cand, counts in zip(reference, candidate, useful, strict=True)
        ]
        diverged = [measure for measure in candidate if measure.num_not_finite]
        if diverged or not any(useful):
            severity: Severity = "severe" if diverged else "none"
            reason = explain_divergence(diverged) if diverged else explain_chance(reference)
            return Verdict(
                *(False, needed, None, None, None, None, self.cumulative, severity, reason),
                tuple(per_measure),
            )
        deciding = [place for place, counts in enumerate(useful) if counts]
        weights = plan.weights(needed)
        shares = [
            measure_share(
                *(reference[place], previous[place], candidate[place]),
                exact=weight == 1,
                resamples=self.resamples,
                seed=self.seed,
            )
            for place, weight in zip(deciding, weights, strict=True)
        ]
        corrected = holm([share.test.p for share in shares])
        for place, share, weight, p in zip(deciding, shares, weights, corrected, strict=True):
            point, low, high = bounds_of(share.alone, self.confidence)
            per_measure[place] = replace(
                per_measure[place],
                retention=_finite(point),
                low=_finite(low),
                high=_finite(high),
                weight=weight,
                test=share.test.kind,
                p=share.test.p,
                p_holm=p,
                floor_by="bound" if share.error <= plan.floor_error else "test",
            )
        stage = weighted_mean([share.stage for share in shares], list(weights))
        total = weighted_mean([share.total for share in shares], list(weights))
        retention, retention_low, retention_high = bounds_of(stage, self.confidence)
        cumulative, cumulative_low, cumulative_high = bounds_of(total, self.confidence)
        under_floor = [m for m in per_measure if m.informative and self._under_floor(m, plan)]
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
            retention_high=_finite(retention_high),
            cumulative_high=_finite(cumulative_high),
        )

    def look(
        self,
        reference: Sequence[Measure],
        previous: Sequence[Measure],
        candidate: Sequence[Measure],
        needed: float,
        plan: Plan,
        confidence: float,
    ) -> Verdict | None:
        """Judge by some of the items, if they are enough to be sure; see ``sequential``.

        Args:
            reference: As for ``decide``, of the items seen so far.
            previous: Likewise.
            candidate: Likewise.
            needed: Retention that the stage needs.
            plan: Of all items.
            confidence: Of the bounds at this look.

        Returns:
            ``None`` where more items must be seen.
        """
        found = replace(self, confidence=confidence).decide(reference, previous, candidate, 0, needed, plan)
        useful = [measure for measure in found.per_measure if measure.informative]
        if found.accepted:
            return found if all(not _under(measure.low, self.floor) for measure in useful) else None
        bounds = [(found.retention_high, needed), (found.cumulative_high, self.cumulative)]
        bounds += [(measure.high, self.floor) for measure in useful]
        hopeless = any(high is not None and high < least for high, least in bounds)
        return found if hopeless or found.diverged else None

    def _under_floor(self, measure: MeasureVerdict, plan: Plan) -> bool:
        if measure.floor_by == "bound":
            return _under(measure.low, self.floor)
        real = measure.p_holm is not None and measure.p_holm <= plan.floor_level
        return real and _under(measure.retention, self.floor)


def _measure_verdict(ref: Measure, cand: Measure, counts: bool) -> MeasureVerdict:
    """What is known of a measure before anything is resampled."""
    return MeasureVerdict(
        name=ref.name,
        value=_finite(cand.value),
        reference=ref.value,
        chance=ref.chance,
        retention=None,
        low=None,
        high=None,
        raw_ratio=_finite(raw_ratio(ref, cand)),
        informative=counts,
        unit=ref.unit,
        items=ref.items.size,
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
