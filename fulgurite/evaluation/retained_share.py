"""What a candidate retains on one measure: points and draws, against the last level and against the reference.

reference, previous, candidate, chance -> gaps [1 + resamples] -> retention of each draw -> bounds, spread, p
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fulgurite.evaluation.loss_test import LossTest, loss_test
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.statistics import Floats, gap_draws, lower_bound, retained, upper_bound

_LEAST_BEYOND = 5  # draws beyond a quantile: with fewer it is an extreme value and no quantile


@dataclass(frozen=True)
class Share:
    """One measure of a candidate.

    Args:
        stage: Retention against the last level as it counts in the mean: the point, then the draws.
        total: The same against the reference.
        alone: Against the reference, of this measure by itself: a draw without margin over chance is minus infinity.
        error: Standard error of the retention against the reference.
        test: How surely anything was lost against the reference.
    """

    stage: Floats
    total: Floats
    alone: Floats
    error: float
    test: LossTest


def measure_share(
    reference: Measure, previous: Measure, candidate: Measure, *, exact: bool, resamples: int, seed: int
) -> Share:
    """Resample one measure.

    Args:
        reference: Before any compression.
        previous: Of the last level.
        candidate: To be judged, finite.
        exact: Whether the mean takes the draws' own ratios. Where a margin over chance is not far from nothing,
            single ratios are huge and would decide a mean; then they are linearised about the point (delta method).
        resamples: Number of draws.
        seed: Of the draws.
    """
    chance = reference.at_chance()
    pairs = [(previous, candidate), (previous, chance), (reference, candidate), (reference, chance)]
    points = np.stack([one.gap(other) for one, other in pairs], 1)
    gaps = np.concatenate([points, gap_draws(pairs, resamples, seed)])
    alone = retained(gaps[:, 2], gaps[:, 3])
    straight = _linearised(gaps[:, 2], gaps[:, 3])
    return Share(
        stage=retained(gaps[:, 0], gaps[:, 1]) if exact else _linearised(gaps[:, 0], gaps[:, 1]),
        total=alone if exact else straight,
        alone=alone,
        error=float(straight[1:].std()) if np.isfinite(straight).all() else float("inf"),
        test=loss_test(reference, candidate, draws=gaps[1:, 2]),
    )


def weighted_mean(draws: list[Floats], weights: list[float]) -> Floats:
    """Mean of point and draws over measures."""
    if len(set(weights)) == 1:
        return np.mean(draws, axis=0)  # type: ignore[no-any-return]
    return np.average(draws, axis=0, weights=weights)


def bounds_of(draws: Floats, confidence: float) -> tuple[float, float, float]:
    """Point, one-sided lower bound, one-sided upper bound.

    Quantiles of the draws; where too few draws lie beyond one, as of a very high confidence, the normal quantile of
    their spread.
    """
    point, sample = float(draws[0]), draws[1:]
    if (1 - confidence) * sample.size >= _LEAST_BEYOND or not np.isfinite(sample).all():
        return point, lower_bound(sample, confidence), upper_bound(sample, confidence)
    wide = NormalDist().inv_cdf(confidence) * float(sample.std())
    return point, point - wide, point + wide


def _linearised(loss: Floats, margin: Floats) -> Floats:
    if margin[0] <= 0:
        return retained(loss, margin)
    lost = loss[0] / margin[0]
    straight: Floats = 1 - lost - (loss - lost * margin) / margin[0]
    return straight
