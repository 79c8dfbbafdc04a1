"""Codes shared out among categories by their errors.

errors of each category by its number of codes -> a code at a time, or the least limit that all can keep -> codes
codes of a category -> shares of the levels -> codes of each level
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Counts = Mapping[str, int]
Errors = Mapping[str, Callable[[int], float]]
"""Relative error of each category by its number of codes."""
_TIE = 1e-9  # a mean that is the same but for rounding is not worse


def split_levels(count: int, shares: Sequence[float], most: int) -> list[int]:
    """Codes of each level of a category, the coarse levels first where shares are not whole.

    Args:
        count: Codes of all levels; at most ``most`` times their number.
        shares: Of the levels.
        most: Codes of one level: as many as features.

    Example:
        >>> split_levels(7, [0.5, 0.3, 0.2], 10)
        [4, 2, 1]
    """
    found: list[int] = []
    for level in range(len(shares)):
        # a rounding error below a whole number is not one more
        end = math.ceil(count * sum(shares[: level + 1]) / sum(shares) - 1e-9)
        found.append(min(end - sum(found), most))
    for level, codes in enumerate(found):  # what the last levels had no room for
        found[level] += min(most - codes, count - sum(found))
    return found


def least_worst(lowest: Counts, highest: Counts, total: int, errors: Errors) -> dict[str, int]:
    """A code at a time to the category whose relative error is largest.

    Args:
        lowest: Codes that each category has in any case.
        highest: Codes that it can have.
        total: Codes of all.
        errors: Falling.
    """
    found = dict(lowest)
    while sum(found.values()) < total:
        open_names = [name for name in found if found[name] < highest[name]]
        found[max(open_names, key=lambda one: errors[one](found[one]))] += 1
    return found


def balanced(
    lowest: Counts,
    highest: Counts,
    total: int,
    errors: Errors,
    weights: Mapping[str, float],
    allowed: Counts,
) -> dict[str, int]:
    """The least error of the worst category at which the mean is no worse than with other counts.

    All categories keep a limit with as few codes as they can, the codes that are left go where they save most; of the
    limits that leave the mean no worse than ``allowed`` the least is taken.

    Args:
        lowest: Codes that each category has in any case.
        highest: Codes that it can have.
        total: Codes of all.
        errors: Falling, each code saving less than the last.
        weights: Of a category's relative error in the mean.
        allowed: Counts whose mean may not be exceeded.
    """

    def mean(counts: Counts) -> float:
        return sum(weights[name] * errors[name](counts[name]) for name in counts)

    limits = sorted(
        {errors[name](count) for name in lowest for count in range(lowest[name], highest[name] + 1)}
    )
    most = mean(allowed) * (1 + _TIE)
    first, last = 0, len(limits) - 1
    while first < last:  # a milder limit takes fewer codes and leaves more for the mean
        middle = (first + last) // 2
        found = _within(limits[middle], lowest, highest, total, errors, weights)
        if found is not None and mean(found) <= most:
            last = middle
        else:
            first = middle + 1
    found = _within(limits[first], lowest, highest, total, errors, weights)
    assert found is not None  # of the mildest limit: all have the lowest and are filled up
    return found


def _within(
    limit: float,
    lowest: Counts,
    highest: Counts,
    total: int,
    errors: Errors,
    weights: Mapping[str, float],
) -> dict[str, int] | None:
    found = {}
    for name, least in lowest.items():
        counts = range(least, highest[name] + 1)
        kept = next((count for count in counts if errors[name](count) <= limit), None)
        if kept is None:
            return None
        found[name] = kept
    if sum(found.values()) > total:
        return None
    while sum(found.values()) < total:
        open_names = [name for name in found if found[name] < highest[name]]
        saved = {
            name: weights[name] * (errors[name](found[name]) - errors[name](found[name] + 1))
            for name in open_names
        }
        found[max(open_names, key=lambda one: saved[one])] += 1
    return found
