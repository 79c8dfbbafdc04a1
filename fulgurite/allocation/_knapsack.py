"""Take steps, the best first, while there is room: the Lagrangian's solution and what still fits beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ladder:
    """The steps of one curve, to be taken in their order; each gains less per cost than the one before.

    Args:
        costs: What each step takes of the room, ``[steps]``, not negative.
        gains: What it brings, ``[steps]``.
        divisible: Whether a part of it can be taken, ``[steps]``.
    """

    costs: Floats
    gains: Floats
    divisible: NDArray[np.bool_]


@dataclass(frozen=True)
class Taken:
    """Whole steps by ladder; at most one step in part (ladder, share); gain per cost of the first step left."""

    counts: list[int]
    partial: tuple[int, float] | None
    rate: float


def take(ladders: Sequence[Ladder], capacity: float) -> Taken:
    """Fill the capacity.

    A larger capacity never gains less: where two runs part, the larger one has taken a step that the
    smaller one had no room for, and all that comes later gains less per cost than that step.
    """
    costs = np.concatenate([ladder.costs for ladder in ladders])
    divisible = np.concatenate([ladder.divisible for ladder in ladders])
    owners = np.concatenate([np.full(len(ladder.costs), index) for index, ladder in enumerate(ladders)])
    places = np.concatenate([np.arange(len(ladder.costs)) for ladder in ladders])
    rates = np.concatenate([_rates(ladder) for ladder in ladders])
    order = np.argsort(-rates, kind="stable")  # equal rates: the first ladder first
    spent = np.cumsum(costs[order])
    # bisection over the multiplier: the sorted rates are its possible values
    whole = int(np.searchsorted(spent, capacity, side="right"))
    counts = np.bincount(owners[order[:whole]], minlength=len(ladders))
    room = capacity - (float(spent[whole - 1]) if whole else 0.0)
    partial = None
    for step in order[whole:]:
        owner = int(owners[step])
        if places[step] != counts[owner]:
            continue  # the step before it was left out
        if costs[step] <= room:
            counts[owner] += 1
            room -= float(costs[step])
        elif divisible[step]:
            partial = (owner, room / float(costs[step]))
            break
    rate = float(rates[order[whole]]) if whole < len(order) else 0.0
    return Taken([int(count) for count in counts], partial, rate)


def _rates(ladder: Ladder) -> Floats:
    """Gain per cost; falling, as the hull makes it, also where rounding would have it otherwise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(ladder.costs > 0, ladder.gains / ladder.costs, np.inf)
    return np.minimum.accumulate(rates)
