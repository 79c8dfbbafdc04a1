"""What one tensor may become: candidates with bytes and distortion, and their lower convex hull.

candidates (measured) -> hull -> between two rates of one continuous codec: any rate -> points of the hull

Only points of the hull can be the best for some price of a byte; see Shoham and Gersho, "Efficient Bit
Allocation for an Arbitrary Set of Quantizers", IEEE Trans. ASSP 36 (1988), https://doi.org/10.1109/29.90373.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

C = TypeVar("C")

STEP = 1 / 32
"""Bits per weight between two points of a continuous codec: the chord is within 3e-4 of an exponential there."""


@runtime_checkable
class Continuous(Protocol):
    """What may be asked for any real rate; codecs are, as far as they do not answer ``None``."""

    def at_rate(self, bits_per_weight: float) -> Any:
        """The same thing at another rate, or ``None`` where rates come in steps."""


@dataclass(frozen=True)
class Candidate(Generic[C]):
    """One way to code a tensor.

    Args:
        codec: What makes it: a codec, or whatever else is chosen, such as a number of levels.
        num_bytes: Bytes of the whole tensor.
        distortion: Error of the whole tensor, in the units of its curve.
    """

    codec: C
    num_bytes: int
    distortion: float


@dataclass(frozen=True)
class Point(Generic[C]):
    """A candidate on the hull; ``joined`` where every rate from the point before to this one can be had."""

    candidate: Candidate[C]
    joined: bool = False


@dataclass(frozen=True)
class Curve(Generic[C]):
    """Rate and distortion of one tensor.

    Args:
        name: Of the tensor.
        numel: Number of weights.
        candidates: In any order; at least one.
        slope: Loss per unit of distortion, so that tensors compare.

    Raises:
        ValueError: If there is no candidate, or a number is not finite or out of range.
    """

    name: str
    numel: int
    candidates: tuple[Candidate[C], ...]
    slope: float = 1.0

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError(f"{self.name}: candidates must hold at least one, got none")
        if self.numel < 1:
            raise ValueError(f"{self.name}: numel must be at least 1, got {self.numel}")
        if not 0 < self.slope < math.inf:
            raise ValueError(f"{self.name}: slope must be above 0 and finite, got {self.slope}")
        for candidate in self.candidates:
            if not (candidate.num_bytes >= 0 and 0 <= candidate.distortion < math.inf):
                raise ValueError(
                    f"{self.name}: bytes and distortion must be finite and not negative, got "
                    f"{candidate.num_bytes} and {candidate.distortion} of {candidate.codec}"
                )

    def measured_hull(self) -> list[Candidate[C]]:
        """The candidates on the lower convex hull, from the fewest bytes to the least distortion."""
        return _lower_hull(self.candidates)

    def hull(self) -> list[Point[C]]:
        """The lower convex hull, with rates between two measured ones filled in where a codec has them."""
        measured = self.measured_hull()
        joined = [
            self._codec_at(low, high, _middle(low, high)) is not None for low, high in pairwise(measured)
        ]
        filled = list(measured)
        for (low, high), any_rate in zip(pairwise(measured), joined, strict=True):
            filled += self._between(low, high) if any_rate else []
        points = [Point(candidate) for candidate in _lower_hull(filled)]
        edges = [candidate.num_bytes for candidate in measured]
        for index, (low_point, high_point) in enumerate(pairwise(points), start=1):
            # all stretches of the measured hull that lie between the two
            first = bisect_right(edges, low_point.candidate.num_bytes) - 1
            last = bisect_left(edges, high_point.candidate.num_bytes)
            points[index] = Point(high_point.candidate, all(joined[first:last]))
        return points

    def at(self, low: Candidate[C], high: Candidate[C], num_bytes: int) -> Candidate[C]:
        """The candidate between two joined ones, its distortion log-linear in the bits.

        Over a bit or two ``ln D`` is a straight line: on a Gaussian source ``D = s^2 2^(-2R)``.
        """
        share = (num_bytes - low.num_bytes) / (high.num_bytes - low.num_bytes)
        if high.distortion > 0:
            distortion = low.distortion * (high.distortion / low.distortion) ** share
        else:  # exact at the upper end: no logarithm, so the chord
            distortion = (1 - share) * low.distortion
        codec: Any = low.codec  # joined: it has any rate
        return Candidate(codec.at_rate(8 * num_bytes / self.numel), num_bytes, distortion)

    def _between(self, low: Candidate[C], high: Candidate[C]) -> list[Candidate[C]]:
        span = high.num_bytes - low.num_bytes
        count = min(span, math.ceil(8 * span / self.numel / STEP))
        return [self.at(low, high, low.num_bytes + span * index // count) for index in range(1, count)]

    def _codec_at(self, low: Candidate[C], high: Candidate[C], num_bytes: int) -> Any:
        """The codec that makes so many bytes, if both are this one codec at two rates; or ``None``."""
        if not (isinstance(low.codec, Continuous) and isinstance(high.codec, Continuous)):
            return None
        bits = 8 * num_bytes / self.numel
        codec = low.codec.at_rate(bits)
        return codec if codec == high.codec.at_rate(bits) else None


def _middle(low: Candidate[C], high: Candidate[C]) -> int:
    return (low.num_bytes + high.num_bytes) // 2


def _lower_hull(candidates: Iterable[Candidate[C]]) -> list[Candidate[C]]:
    """Candidates whose slopes fall strictly: each byte more buys less."""
    hull: list[Candidate[C]] = []
    for candidate in sorted(candidates, key=lambda entry: (entry.num_bytes, entry.distortion)):
        if hull and candidate.distortion >= hull[-1].distortion:
            continue  # as good for fewer bytes is there already
        while len(hull) > 1 and _gain(hull[-1], candidate) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(candidate)
    return hull


def _gain(low: Candidate[C], high: Candidate[C]) -> float:
    return (low.distortion - high.distortion) / (high.num_bytes - low.num_bytes)
