"""Ours against a peer's point: how many bytes, or bits, do we need for its quality?

our points -> front (fewer bytes, better quality) -> at a quality: between its two neighbours on the front

Between two neighbours the logarithm of the size is linear in the quality, in the logarithm of a perplexity.
Nothing is extrapolated: a quality better than all of ours is not reached, and for one worse than all of ours
our smallest point stands, which is better than asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A size and the quality there.

    Args:
        size: Bytes, or bits per weight.
        quality: A score of which more is better: see ``goodness``.
    """

    size: float
    quality: float


@dataclass(frozen=True)
class Match:
    """Our size at a peer's quality; ``at_most`` where we have nothing as bad."""

    size: float
    at_most: bool


def goodness(score: float, higher_is_better: bool) -> float:
    """A score on a scale where more is better and differences compare: minus log perplexity, or the score."""
    if math.isnan(score):
        return -math.inf
    return score if higher_is_better else -math.log(score)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in size and quality, from small to large."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.size, -point.quality)):
        if math.isfinite(point.quality) and (not best or point.quality > best[-1].quality):
            best.append(point)
    return best


def at_quality(ours: Sequence[Point], quality: float) -> Match | None:
    """The size at which a front has a quality.

    Args:
        ours: A front.
        quality: On the scale of ``goodness``.

    Returns:
        ``None`` where the front does not reach it, or is empty.

    Example:
        >>> at_quality([Point(100, -3.0), Point(400, -1.0)], -2.0)
        Match(size=200.0, at_most=False)
    """
    reached = next((number for number, point in enumerate(ours) if point.quality >= quality), None)
    if reached is None:
        return None
    above = ours[reached]
    if reached == 0:
        return Match(above.size, at_most=above.quality > quality)
    below = ours[reached - 1]
    share = (quality - below.quality) / (above.quality - below.quality)
    size = math.exp(math.log(below.size) + share * (math.log(above.size) - math.log(below.size)))
    return Match(round(size, 9), at_most=False)
