"""Looks at a part of the items, and a verdict as soon as one is sure, with the error rate of a single look.

    shuffled items -> look 1: bounds at a confidence near 1 -> sure? -> look 2: a little less -> ... -> all items

Whoever looks four times at 95 % is wrong more often than in 5 %. So each look has a boundary of its own, and together
they spend the error that one look would have: little at first, almost all of it at the end (O'Brien and Fleming).

References: Lan and DeMets, "Discrete Sequential Boundaries for Clinical Trials", 1983,
https://doi.org/10.1093/biomet/70.3.659 (spending function, the first of their section 2); O'Brien and Fleming, 1979,
https://doi.org/10.2307/2530245; Armitage, McPherson and Rowe, 1969, https://doi.org/10.2307/2343787 (the recursion).
Differs from trials: the stop for a bad candidate mirrors the one for a good candidate and takes nothing from it, so it
can only lower the chance of a false acceptance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_NORMAL = NormalDist()
_GRID = 2001  # points of the recursion's integrals: boundaries to 1e-3
_FAR = 8.0  # standard deviations; beyond lies 1e-15
_LEAST_SPENT = 1e-9  # a look that may spend less than this is no look


def spent(fraction: float, alpha: float) -> float:
    """Error that may have been made by the time that this fraction of the items was seen, one-sided.

    Example:
        >>> [round(spent(t, 0.05), 4) for t in (0.25, 0.5, 0.75, 1.0)]
        [0.0001, 0.0056, 0.0236, 0.05]
    """
    return 2 * (1 - _NORMAL.cdf(_NORMAL.inv_cdf(1 - alpha / 2) / math.sqrt(fraction)))


@cache
def look_confidences(fractions: tuple[float, ...], confidence: float) -> tuple[float, ...]:
    """Confidence of the bounds at each look, so that all looks together err as often as one at ``confidence``.

    Args:
        fractions: Of the items, rising, in (0, 1].
        confidence: One-sided, of the whole.

    Raises:
        ValueError: If the fractions do not rise, or a number is out of range.

    Example:
        >>> [round(each, 4) for each in look_confidences((0.5, 1.0), 0.95)]
        [0.9944, 0.9518]
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must be in (0.5, 1), got {confidence}")
    if (
        not fractions
        or list(fractions) != sorted(set(fractions))
        or not 0 < fractions[0] <= fractions[-1] <= 1
    ):
        raise ValueError(f"fractions must rise within (0, 1], got {fractions}")
    alpha, before, found = 1 - confidence, 0.0, []
    grid: NDArray[np.float64] | None = None  # sums that no look has stopped, and their density
    density: NDArray[np.float64] | None = None
    for place, fraction in enumerate(fractions):
        allowed = max(
            spent(fraction, alpha) - (spent(fractions[place - 1], alpha) if place else 0.0), _LEAST_SPENT
        )
        step = math.sqrt(fraction - before)
        boundary = _boundary(allowed, step, grid, density)
        found.append(_NORMAL.cdf(boundary / math.sqrt(fraction)))
        following = np.linspace(-_FAR, boundary, _GRID)
        density = _density(following, step, grid, density)
        grid, before = following, fraction
    return tuple(found)


def look_sizes(items: int, looks: int) -> list[int]:
    """Items seen at each look, evenly spaced and ending with all.

    Raises:
        ValueError: If ``looks`` is under 1.
    """
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}")
    return sorted({max(1, items * look // looks) for look in range(1, looks + 1)})


def shuffled(items: int, seed: int) -> NDArray[np.int64]:
    """The order in which items are seen: each look is then a random sample, however the data is sorted."""
    return np.random.default_rng([seed, items, 1]).permutation(items)


def _boundary(
    allowed: float, step: float, grid: NDArray[np.float64] | None, density: NDArray[np.float64] | None
) -> float:
    """The sum that is passed with probability ``allowed`` by who was not stopped before; by bisection."""
    low, high = -_FAR, _FAR
    for _ in range(60):
        middle = (low + high) / 2
        if _beyond(middle, step, grid, density) > allowed:
            low = middle
        else:
            high = middle
    return high


def _beyond(
    bound: float, step: float, grid: NDArray[np.float64] | None, density: NDArray[np.float64] | None
) -> float:
    if grid is None or density is None:
        return 1 - _NORMAL.cdf(bound / step)
    tails = 0.5 * _erfc((bound - grid) / (step * math.sqrt(2)))
    return float(np.trapezoid(density * tails, grid))


def _density(
    points: NDArray[np.float64],
    step: float,
    grid: NDArray[np.float64] | None,
    density: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Density of the sums one step on, at ``points``."""
    scale = step * math.sqrt(2 * math.pi)
    if grid is None or density is None:
        first: NDArray[np.float64] = np.exp(-0.5 * (points / step) ** 2) / scale
        return first
    kernel = np.exp(-0.5 * ((points[:, None] - grid[None]) / step) ** 2) / scale
    following: NDArray[np.float64] = np.asarray(np.trapezoid(kernel * density, grid, axis=1))
    return following


def _erfc(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([math.erfc(value) for value in values])
