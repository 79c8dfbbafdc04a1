"""Networks compared in pairs on the same items: difference, interval, p-value, effect size.

    items of a, items of b [n] -> draws of n items -> b - a of each draw -> interval, p
    p of all comparisons -> Holm -> p that all of them may be read at once

References: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15 (percentile interval,
achieved significance level); Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979,
https://www.jstor.org/stable/4615733; Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, section
2.3.5 (d of paired differences); Cliff, "Dominance Statistics", 1993, https://doi.org/10.1037/0033-2909.114.3.494.
Differs from the last: delta is within pairs, the share of items that one network is better on less that of the other.
Items are far less alike than networks are, so that over all pairs of items delta is next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fulgurite.evaluation.measure import Measure, check_paired
from fulgurite.evaluation.multiple import holm
from fulgurite.evaluation.statistics import Floats, Interval, lower_bound, resampled_counts, upper_bound

RESAMPLES = 10_000
"""Draws by default: the smallest p is 2 / 10,001, which Holm's correction may multiply by a few dozen."""


@dataclass(frozen=True)
class Comparison:
    """One network against another on one measure.

    Args:
        name: Of the network.
        against: Of the one that it is compared with.
        measure: What was measured.
        unit: Of the difference; in ``%`` differences are fractions.
        difference: How much better the first is, in the measure's unit: above 0 is better whatever its direction.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p: Two-sided, of this comparison alone; ``None`` where a score is no number.
        p_holm: Corrected for all comparisons that were made with it.
        cohens_d: Mean of the items' differences in their standard deviations; ``None`` where items have no score.
        cliffs_delta: Share of items that the first is better on less that of the second; likewise.
    """

    name: str
    against: str
    measure: str
    unit: str
    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    cohens_d: float | None
    cliffs_delta: float | None

    @property
    def significant(self) -> bool:
        """Whether the two differ at 5 % after correction."""
        return self.p_holm is not None and self.p_holm <= 0.05

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``None`` for what is not finite."""
        plain = asdict(self)
        for key, value in plain.items():
            if isinstance(value, float) and not np.isfinite(value):
                plain[key] = None
        return plain


def difference_draws(baseline: Measure, candidate: Measure, resamples: int, seed: int) -> Floats:
    """How much better ``candidate`` is than ``baseline`` on each resample of the items, in the measure's unit.

    Returns:
        ``[resamples]``; above 0 is better.

    Raises:
        ValueError: If the two are not of the same items.
    """
    check_paired(baseline, candidate)
    parts = []
    for counts in resampled_counts(baseline.items.size, resamples, seed):
        gap = candidate.gap(baseline, counts)
        if baseline.targets is None:
            total = counts @ baseline.weights
            # a draw of items without weight says nothing of a difference
            gap = np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)
        parts.append(gap)
    return np.concatenate(parts)


def difference_interval(
    baseline: Measure,
    candidate: Measure,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """How much better ``candidate`` is than ``baseline``, with a central, two-sided interval.

    Raises:
        ValueError: If the two are not of the same items.
    """
    draws = difference_draws(baseline, candidate, resamples, seed)
    side = (1 + confidence) / 2
    return Interval(
        candidate.sign * (candidate.value - baseline.value),
        lower_bound(draws, side),
        upper_bound(draws, side),
    )


def bootstrap_p(draws: Floats) -> float | None:
    """Two-sided p-value of no difference: twice the share of draws on the other side of 0.

    Draws count themselves once more, so that it is never 0 (Davison and Hinkley, 1997, section 4.2.5).

    Returns:
        ``None`` where a draw is no number.
    """
    if not np.isfinite(draws).all():
        return None
    sides = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (sides + 1) / (draws.size + 1))


def cohens_d(differences: Floats) -> float | None:
    """Mean of paired differences over their standard deviation.

    Returns:
        0 where all are 0; ``None`` where there is one item, or all differ by the same, or one is no number.
    """
    if differences.size < 2 or not np.isfinite(differences).all():
        return None
    if not differences.any():
        return 0.0
    spread = float(differences.std(ddof=1))
    # equal differences leave rounding errors
    return float(differences.mean()) / spread if spread > 1e-12 * float(np.abs(differences).max()) else None


def cliffs_delta(differences: Floats) -> float | None:
    """Share of positive differences less that of negative ones, -1 to 1; ``None`` where one is no number."""
    if differences.size == 0 or not np.isfinite(differences).all():
        return None
    return float((differences > 0).mean() - (differences < 0).mean())


def compare(
    baseline: Mapping[str, Measure],
    candidates: Mapping[str, Mapping[str, Measure]],
    *,
    against: str = "reference",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare networks with one, on every measure; p-values are corrected over all of it.

    Args:
        baseline: Measures by name.
        candidates: The same measures of each network by its name.
        against: Name of the baseline.
        confidence: Of the intervals, which are of one comparison each.
        resamples: Draws.
        seed: Of the draws.

    Raises:
        ValueError: If there is no candidate, one lacks a measure, or measures are not of the same items.
    """
    if not candidates:
        raise ValueError(f"expected networks to compare with {against}, found none")
    found = []
    for name, measures in candidates.items():
        if missing := sorted(set(baseline) - set(measures)):
            raise ValueError(f"{name}: expected the measures of {against}, {', '.join(missing)} is missing")
        for key, before in baseline.items():
            after = measures[key]
            draws = difference_draws(before, after, resamples, seed)
            side = (1 + confidence) / 2
            each = _of_items(before, after)
            found.append(
                Comparison(
                    name=name,
                    against=against,
                    measure=key,
                    unit=before.unit,
                    difference=after.sign * (after.value - before.value),
                    low=lower_bound(draws, side),
                    high=upper_bound(draws, side),
                    p=bootstrap_p(draws),
                    p_holm=None,
                    cohens_d=None if each is None else cohens_d(each),
                    cliffs_delta=None if each is None else cliffs_delta(each),
                )
            )
    corrected = holm([one.p for one in found])
    return [Comparison(**{**asdict(one), "p_holm": p}) for one, p in zip(found, corrected, strict=True)]


def _of_items(before: Measure, after: Measure) -> Floats | None:
    """How much better each item is; ``None`` where an item has no score of its own, as in a correlation."""
    if before.targets is not None:
        return None
    used = before.weights > 0
    return before.sign * (after.items - before.items)[used] / before.weights[used]
