"""What a gate will be able to tell, from the reference's scores alone: before a run, not after it.

    measures of the reference -> above chance? (Holm) -> error of a retention -> weight -> error of their mean
                                                     -> share of harmless stages that would be rejected, items needed

A mean over measures of which one is noisy is as noisy as that one, and a gate that asks for its lower bound then
rejects stages that lose nothing. So a measure whose error is larger than the question allows weighs less: by the
square of what is allowed over what it has, as in a mean weighted by precision. Measures that are sure enough all
weigh the same. Weights are known before there is a candidate, so none can earn itself other ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.multiple import holm
from fulgurite.evaluation.statistics import chance_p, planned_error

POWER = 0.95
"""Share of harmless stages that a gate with items enough lets pass."""

_NORMAL = NormalDist()
_FEW = 30  # items: of fewer, a correlation tells nothing
_BEYOND_CHANCE = 3.0  # standard errors of a correlation that is none
_MOST_ITEMS = 1e6  # times as many: beyond that "more items" is no advice


@dataclass(frozen=True)
class MeasurePlan:
    """One measure of the reference, as a gate will use it.

    Args:
        name: Of the measure.
        unit: Of value and chance.
        items: Number of items.
        value: Score of the reference.
        chance: Score of who knows nothing.
        informative: Whether the reference is surely better than chance; if not, the measure decides nothing.
        error: Standard error that a retention is expected to have.
        group: Measures of one group are of the same items and move together; others do not.
    """

    name: str
    unit: str
    items: int
    value: float
    chance: float
    informative: bool
    error: float
    group: int = 0


@dataclass(frozen=True)
class Plan:
    """What a gate can tell on the measures of a reference.

    Args:
        measures: In the reference's order.
        confidence: Of the gate's bounds.
        floor: That each measure is held to.
    """

    measures: tuple[MeasurePlan, ...]
    confidence: float
    floor: float

    @property
    def useful(self) -> tuple[MeasurePlan, ...]:
        """The measures that decide."""
        return tuple(measure for measure in self.measures if measure.informative)

    def weights(self, needed: float, more: float = 1.0) -> tuple[float, ...]:
        """How much each informative measure counts in a mean that must reach ``needed``, 0 to 1.

        Args:
            needed: Retention.
            more: With this many times the items.
        """
        enough = (1 - needed) / self._quantiles()
        if enough <= 0:
            return (1.0,) * len(self.useful)
        return tuple(min(1.0, more * (enough / max(each.error, 1e-12)) ** 2) for each in self.useful)

    def error(self, needed: float, more: float = 1.0) -> float:
        """Standard error of the weighted mean retention; measures of one group move together."""
        weights = self.weights(needed, more)
        by_group: dict[int, float] = {}
        for weight, measure in zip(weights, self.useful, strict=True):
            by_group[measure.group] = by_group.get(measure.group, 0.0) + weight * measure.error
        return math.sqrt(sum(part**2 for part in by_group.values()) / more) / sum(weights)

    def tells(self, needed: float) -> float:
        """Smallest loss of mean retention that is told from none with ``POWER``; at most 1."""
        return min(1.0, self._quantiles() * self.error(needed))

    def harmless_rejected(self, needed: float, more: float = 1.0) -> float:
        """Probability that a stage which loses nothing does not reach ``needed`` with its lower bound."""
        error = self.error(needed, more)
        if error == 0:
            return 0.0 if needed < 1 else 1.0
        return _NORMAL.cdf(_NORMAL.inv_cdf(self.confidence) - (1 - needed) / error)

    def more_items(self, needed: float) -> float:
        """How many times the items let a harmless stage pass with ``POWER``; infinity where none do, at least 1."""
        if self.harmless_rejected(needed) <= 1 - POWER:
            return 1.0
        low, high = 1.0, 2.0
        while self.harmless_rejected(needed, high) > 1 - POWER:
            low, high = high, 2 * high
            if high > _MOST_ITEMS:
                return math.inf
        for _ in range(20):  # to a millionth of the last doubling
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self.harmless_rejected(needed, middle) > 1 - POWER else (low, middle)
            )
        return high

    @property
    def floor_level(self) -> float:
        """Share of harmless stages that may fail the floor of any measure: half of what may be rejected in all.

        The other half is left to the means.
        """
        return (1 - self.confidence) / 2

    @property
    def floor_error(self) -> float:
        """Largest standard error at which a measure is held to the floor by its lower bound.

        A harmless stage then fails one of them in no more than ``floor_level`` of runs.
        """
        each = 1 - self.floor_level / max(1, len(self.useful))
        return (1 - self.floor) / (_NORMAL.inv_cdf(self.confidence) + _NORMAL.inv_cdf(each))

    def _quantiles(self) -> float:
        return _NORMAL.inv_cdf(self.confidence) + _NORMAL.inv_cdf(POWER)


def plan_gate(
    reference: Sequence[Measure], *, confidence: float, floor: float, resamples: int, seed: int
) -> Plan:
    """Find out what the reference's measures can tell.

    A measure is informative where its lower bound is above chance, with Holm's correction over all of them: of many
    measures at chance one would look better than it by luck.
    """
    corrected = holm([chance_p(measure, resamples, seed) for measure in reference])
    return Plan(
        tuple(
            MeasurePlan(
                measure.name,
                measure.unit,
                measure.items.size,
                measure.value,
                measure.chance,
                p is not None and p <= 1 - confidence + 1e-12,
                planned_error(measure) if np.isfinite(measure.items).all() else math.inf,
                group,
            )
            for measure, p, group in zip(reference, corrected, _groups(reference), strict=True)
        ),
        confidence,
        floor,
    )


def _groups(measures: Sequence[Measure]) -> list[int]:
    """Which measures are of the same items, by number: benchmarks cut to one size are equally many and unrelated."""
    groups: list[int] = []
    for place, measure in enumerate(measures):
        alike = (groups[other] for other in range(place) if _related(measures[other], measure))
        groups.append(next(alike, place))
    return groups


def _related(one: Measure, other: Measure) -> bool:
    """Whether what is hard for one measure is so for the other; where that is not known, they count as related."""
    count = one.items.size
    if count != other.items.size:
        return False
    if count < _FEW or one.targets is not None or other.targets is not None:
        return True
    left = [measure.items - measure.value * measure.weights for measure in (one, other)]
    spreads = [float(np.sqrt((each**2).sum())) for each in left]
    if not all(math.isfinite(spread) and spread > 0 for spread in spreads):
        return True
    return abs(float(left[0] @ left[1])) / (spreads[0] * spreads[1]) > _BEYOND_CHANCE / math.sqrt(count)
