"""How sure a comparison is: the paired bootstrap over items.

    measures [n] -> draw n items with replacement, many times -> loss / margin of each draw -> quantiles

Reference: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
The use for language systems, paired by test item, follows Koehn, "Statistical Significance Tests for Machine
Translation Evaluation", EMNLP 2004, https://aclanthology.org/W04-3250.
Differs from both: the statistic is retention, a ratio whose denominator (the reference's margin over chance)
is drawn again with each resample, and bounds are order statistics without interpolation.

Measures with equal item counts share their draws. Two measures of the same windows move together, and a mean
over them would look surer than it is were they drawn apart; for unrelated items sharing changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fulgurite.evaluation.measure import Measure, check_paired, is_binary, retention

Floats = NDArray[np.float64]

_CHUNK = 1 << 20  # item draws at a time: indices, counts and floats of 8 bytes each, about 40 MB
_PLANNING_RESAMPLES = 400  # a standard error to 1 / sqrt(2 * 400), or 4 %


@dataclass(frozen=True)
class Interval:
    """A value and its confidence bounds."""

    point: float
    low: float
    high: float


def resampled_counts(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Draw ``n`` items with replacement, many times.

    Args:
        n: Number of items.
        resamples: Number of draws of ``n`` items.
        seed: Equal seeds and ``n`` give equal draws.

    Yields:
        How often each item was drawn, ``[rows, n]``; ``resamples`` rows in all.
    """
    generator = np.random.default_rng([seed, n])
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n  # each resample counts in its own n bins
        counts = np.bincount(drawn.reshape(-1), minlength=size * n).reshape(size, n)
        yield counts.astype(np.float64)


def gap_draws(pairs: Sequence[tuple[Measure, Measure]], resamples: int, seed: int) -> Floats:
    """How much better the first measure of each pair is than the second, on each resample of the items.

    Args:
        pairs: Measures of the same items; all pairs share their draws, which keeps the pairing.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        ``[resamples, pairs]``; see ``Measure.gap`` for what the numbers mean.
    """
    counts = resampled_counts(pairs[0][0].items.size, resamples, seed)
    return np.concatenate([np.stack([one.gap(other, drawn) for one, other in pairs], 1) for drawn in counts])


def retained(loss: Floats, margin: Floats) -> Floats:
    """Retention of each draw, ``1 - loss / margin``.

    Where a draw finds no margin over chance there is nothing to divide by: no loss counts as 1, and any loss
    as minus infinity, which can only lower a bound.
    """
    positive = margin > 0
    ratio = 1.0 - loss / np.where(positive, margin, 1.0)
    return np.where(positive, ratio, np.where(loss <= 0, 1.0, -np.inf))


def retention_draws(reference: Measure, candidate: Measure, resamples: int = 2000, seed: int = 0) -> Floats:
    """Bootstrap distribution of ``retention(reference, candidate)``, ``[resamples]``.

    Raises:
        ValueError: If the two are not measured on the same items.
    """
    check_paired(reference, candidate)
    draws = gap_draws([(reference, candidate), (reference, reference.at_chance())], resamples, seed)
    return retained(draws[:, 0], draws[:, 1])


def lower_bound(draws: Floats, confidence: float) -> float:
    """One-sided bound that the true value exceeds with probability ``confidence``."""
    return float(
        np.quantile(draws, 1 - confidence, method="lower")
    )  # no interpolation: infinities stay apart


def upper_bound(draws: Floats, confidence: float) -> float:
    """One-sided bound that the true value stays under with probability ``confidence``."""
    return float(np.quantile(draws, confidence, method="higher"))


def retention_interval(
    reference: Measure, candidate: Measure, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Retention with its central, two-sided interval; a one-sided bound is tighter on its side.

    Raises:
        ValueError: If the two are not measured on the same items or the reference is exactly at chance.
    """
    draws = retention_draws(reference, candidate, resamples, seed)
    one_sided = (1 + confidence) / 2
    point = retention(reference, candidate)
    return Interval(point, lower_bound(draws, one_sided), upper_bound(draws, one_sided))


def informative(measure: Measure, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> bool:
    """Whether a network is surely better than chance on this measure, so that it has something to lose.

    One item is never enough: its bootstrap has no spread.
    """
    return chance_p(measure, resamples, seed) <= 1 - confidence + 1e-12


def chance_p(measure: Measure, resamples: int = 2000, seed: int = 0) -> float:
    """Share of bootstrap draws on which a network is no better than chance; 1 where that cannot be known.

    Of items that are right or wrong it is at least the probability of guessing as many.
    """
    if measure.items.size < 2 or measure.num_not_finite:
        return 1.0
    guessed = _guessed_p(measure) if is_binary(measure) else 0.0
    margins = gap_draws([(measure, measure.at_chance())], resamples, seed)[:, 0]
    # sums of equal numbers differ by rounding: a margin of 1e-9 of the score is none
    rounding = 1e-9 * float(np.abs(measure.chance_items).sum())
    return max(guessed, float((margins <= rounding).mean()))


def _guessed_p(measure: Measure) -> float:
    """Probability that guesses do as well: where few items are all right, the bootstrap sees no spread."""
    from scipy.special import bdtr

    count, better = measure.items.size, measure.sign * (measure.items - measure.chance_items)
    if better.sum() <= 0:
        return 1.0
    # by items that are as they should be, whichever direction that is
    good, likely = float(measure.items.sum()), float(measure.chance_items.mean())
    if not measure.higher_is_better:
        good, likely = count - good, 1 - likely
    # at least so many good is at most so many others
    return float(bdtr(count - good, count, min(1.0, max(0.0, 1 - likely))))


def minimum_detectable_drop(
    reference: Measure,
    items: int | None = None,
    correlation: float = 0.9,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float:
    """Smallest loss of retention that a comparison over ``items`` items finds; for planning, before a run.

    A normal approximation: ``(z_confidence + z_power) * se * sqrt(2 (1 - correlation)) / |s0 - chance|``,
    where ``se`` is the standard error of the reference's own score. How alike the two networks' items are is
    not known beforehand, so the correlation is assumed. Measured at 4 bits a weight on two small networks,
    over windows of 256 tokens: 0.99 for bits per byte, 0.93 to 0.96 for next-token accuracy; less at fewer
    bits.

    Args:
        reference: Measure of the reference network.
        items: Planned number of items; those of ``reference`` by default.
        correlation: Assumed correlation of per-item results of the two networks, below 1.
        confidence: One-sided confidence of the test.
        power: Probability of finding a loss of just that size.

    Returns:
        Loss as a share of the margin over chance: 0.02 means that 2 points of retention can be told from
        none; infinity where the reference is at chance or has one item.

    Raises:
        ValueError: If ``correlation`` or ``items`` is out of range.
    """
    normal = NormalDist()
    quantiles = normal.inv_cdf(confidence) + normal.inv_cdf(power)
    return quantiles * planned_error(reference, items, correlation)


def planned_error(reference: Measure, items: int | None = None, correlation: float = 0.9) -> float:
    """Standard error that the retention of a candidate close to the reference will have; for planning.

    Args:
        reference: Measure of the reference network.
        items: Planned number of items; those of ``reference`` by default.
        correlation: Assumed correlation of per-item results of the two networks, below 1.

    Returns:
        As a share of the margin over chance; infinity where the reference is at chance or has one item.

    Raises:
        ValueError: If ``correlation`` or ``items`` is out of range.
    """
    if not -1 <= correlation < 1:
        raise ValueError(f"correlation must be in [-1, 1), got {correlation}")
    n = reference.items.size
    planned = n if items is None else items
    if planned < 1:
        raise ValueError(f"items must be at least 1, got {planned}")
    margin = abs(reference.value - reference.chance)
    if n < 2 or margin == 0:
        return math.inf
    return standard_error(reference) * math.sqrt(n / planned * 2 * (1 - correlation)) / margin


def standard_error(measure: Measure) -> float:
    """Standard error of a score, for items drawn at random."""
    if measure.statistic != "ratio":
        draws = gap_draws([(measure, measure.at_chance())], _PLANNING_RESAMPLES, seed=0)
        return float(draws[:, 0].std(ddof=1))
    # delta method for a ratio of sums: the residuals of items about value * weights carry its variance
    n = measure.items.size
    residuals = measure.items - measure.value * measure.weights
    return math.sqrt(float((residuals**2).sum()) / (n - 1) * n) / float(measure.weights.sum())
