"""One search for all: who gets how many bytes, so that the sum of losses is least.

hulls -> steps, the best loss per byte first -> as many as fit (the multiplier) -> smaller ones that still fit

On hulls the Lagrangian's solution for a multiplier is: take every step that saves more loss per byte than
it. So bisection over the multiplier is a binary search in the sorted steps. What is left of the budget goes,
in the same order, to steps that still fit, or to a part of one where any rate can be had.

Reference: Shoham and Gersho, "Efficient Bit Allocation for an Arbitrary Set of Quantizers", IEEE Trans. ASSP
36 (1988), https://doi.org/10.1109/29.90373. Differs from the paper: the greedy fill, which makes the
result no worse than the hull's and monotone in the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np

from fulgurite.allocation._knapsack import Ladder, Taken, take
from fulgurite.allocation.budget import Target
from fulgurite.allocation.curve import C, Candidate, Curve, Point

_NAMED = 4  # holders that an unreachable target names


@dataclass(frozen=True)
class Choice(Generic[C]):
    """What one tensor gets."""

    curve: Curve[C]
    candidate: Candidate[C]

    @property
    def loss(self) -> float:
        """Its part of the loss: slope times distortion."""
        return self.curve.slope * self.candidate.distortion

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the tensor."""
        return 8 * self.candidate.num_bytes / self.curve.numel


@dataclass(frozen=True)
class Allocation(Generic[C]):
    """What every tensor gets.

    Args:
        choices: By name, in the order of the curves.
        reserved: Bytes beside them.
        multiplier: Loss per byte at the margin: what a little more would save, or less would cost.
    """

    choices: Mapping[str, Choice[C]]
    reserved: int
    multiplier: float

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors and of the reserve."""
        return self.reserved + sum(choice.candidate.num_bytes for choice in self.choices.values())

    @property
    def loss(self) -> float:
        """Sum of the tensors' losses."""
        return math.fsum(choice.loss for choice in self.choices.values())

    @property
    def bits_per_weight(self) -> float:
        """Over all weights of the curves, the reserve apart."""
        numel = sum(choice.curve.numel for choice in self.choices.values())
        return 8 * (self.num_bytes - self.reserved) / numel


def allocate(
    curves: Sequence[Curve[C]], target: Target, reserved: Mapping[str, int] | None = None
) -> Allocation[C]:
    """Choose a candidate for each curve: the least loss within bytes, or the fewest bytes within a loss.

    Args:
        curves: At least one; names differ.
        target: What is to be met; never exceeded.
        reserved: Bytes that are spent in any case, by what they are spent on, such as files.

    Returns:
        A solution on the hulls, or better. A larger target never has a worse one.

    Raises:
        ValueError: If the target cannot be reached; says the least that can be, and what holds it.
    """
    if not curves:
        raise ValueError("curves must hold at least one, got none")
    if len({curve.name for curve in curves}) < len(curves):
        raise ValueError(f"names of curves must differ, got {', '.join(curve.name for curve in curves)}")
    reserved = dict(reserved or {})
    hulls = [curve.hull() for curve in curves]
    if target.max_loss is None:
        capacity = _capacity(curves, hulls, target, reserved)
        taken = take([_upwards(curve, hull) for curve, hull in zip(curves, hulls, strict=True)], capacity)
        chosen = [_climbed(index, curve, hulls[index], taken) for index, curve in enumerate(curves)]
        multiplier = taken.rate
    else:
        slack = _slack(curves, hulls, target.max_loss)
        taken = take([_downwards(curve, hull) for curve, hull in zip(curves, hulls, strict=True)], slack)
        chosen = [_descended(index, curve, hulls[index], taken) for index, curve in enumerate(curves)]
        multiplier = 1 / taken.rate if taken.rate > 0 else 0.0
    choices = {curve.name: Choice(curve, found) for curve, found in zip(curves, chosen, strict=True)}
    return Allocation(choices, sum(reserved.values()), multiplier)


def _upwards(curve: Curve[C], hull: Sequence[Point[C]]) -> Ladder:
    """From the fewest bytes: each step costs bytes and saves loss."""
    num_bytes = np.array([point.candidate.num_bytes for point in hull], dtype=np.float64)
    losses = np.array([curve.slope * point.candidate.distortion for point in hull])
    return Ladder(np.diff(num_bytes), -np.diff(losses), np.array([point.joined for point in hull[1:]], bool))


def _downwards(curve: Curve[C], hull: Sequence[Point[C]]) -> Ladder:
    """From the least loss: each step costs loss and saves bytes."""
    up = _upwards(curve, hull)
    return Ladder(up.gains[::-1], up.costs[::-1], up.divisible[::-1])


def _climbed(index: int, curve: Curve[C], hull: Sequence[Point[C]], taken: Taken) -> Candidate[C]:
    low = hull[taken.counts[index]].candidate
    if taken.partial is None or taken.partial[0] != index:
        return low
    high = hull[taken.counts[index] + 1].candidate
    more = math.floor(taken.partial[1] * (high.num_bytes - low.num_bytes))
    return curve.at(low, high, low.num_bytes + more) if more else low


def _descended(index: int, curve: Curve[C], hull: Sequence[Point[C]], taken: Taken) -> Candidate[C]:
    place = len(hull) - 1 - taken.counts[index]
    high = hull[place].candidate
    if taken.partial is None or taken.partial[0] != index:
        return high
    low = hull[place - 1].candidate
    less = math.floor(taken.partial[1] * (high.num_bytes - low.num_bytes))
    return curve.at(low, high, high.num_bytes - less) if less else high


def _capacity(
    curves: Sequence[Curve[C]], hulls: Sequence[list[Point[C]]], target: Target, reserved: Mapping[str, int]
) -> int:
    """Bytes to spend above the fewest of every curve."""
    holders = {curve.name: hull[0].candidate.num_bytes for curve, hull in zip(curves, hulls, strict=True)}
    if target.bits_per_weight is not None:
        limit = math.floor(target.bits_per_weight * sum(curve.numel for curve in curves) / 8)
        wanted = f"{target.bits_per_weight:g} bits per weight, {limit:,} bytes,"
    else:
        assert target.num_bytes is not None
        limit = target.num_bytes
        wanted = f"a budget of {limit:,} bytes"
        holders |= reserved
    total = sum(holders.values())
    if total > limit:
        raise ValueError(f"{wanted} cannot be met: the least possible is {total:,} bytes, {_held(holders)}")
    return limit - total


def _slack(curves: Sequence[Curve[C]], hulls: Sequence[list[Point[C]]], limit: float) -> float:
    """Loss to give away above the least of every curve."""
    losses = {
        curve.name: curve.slope * hull[-1].candidate.distortion
        for curve, hull in zip(curves, hulls, strict=True)
    }
    total = math.fsum(losses.values())
    if total > limit:
        raise ValueError(
            f"a loss of {limit:g} cannot be met: the least possible is {total:.4g}, {_held(losses, '.3g')}"
        )
    return limit - total


def _held(holders: Mapping[str, float], form: str = ",") -> str:
    """The few that hold the most, in words."""
    ordered = sorted(holders.items(), key=lambda item: -item[1])
    named = [f"{name} {size:{form}}" for name, size in ordered[:_NAMED]]
    if rest := ordered[_NAMED:]:
        named.append(f"{len(rest)} others {sum(size for _, size in rest):{form}}")
    return "of which " + ", ".join(named)
