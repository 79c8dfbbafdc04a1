"""The encoder's inner loop, compiled: columns of a weight one after the other, each by Viterbi's algorithm.

    column - feedback of earlier columns' errors -> / step -> Viterbi over the rows -> magnitudes -> gain -> error

A column's rows are one sequence of the trellis, cut into segments that start in state 0. So a whole column is
decided before its error is fed to the columns that follow, and feedback and trellis do not disturb each other.
Costs are squared error plus ``lam`` times the nats of the magnitude under its class's probabilities.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_FAR = np.float32(3e38)
_GAIN_NATS = 2.0  # that a gain other than 1 takes to code, about


@numba.njit(cache=True, nogil=True)
def predecessors(states: int, first: int, second: int) -> Any:
    """For each state its two predecessors and the branch bits on the way, ``[states, 2]`` each."""
    before = np.empty((states, 2), np.int32)
    branch = np.empty((states, 2), np.int32)
    found = np.zeros(states, np.int32)
    for state in range(states):
        for bit in range(2):
            after = (state >> 1) ^ ((state & 1) * first) ^ (bit * second)
            before[after, found[after]] = state
            branch[after, found[after]] = bit
            found[after] += 1
    return before, branch


@numba.njit(cache=True, nogil=True)
def choose(
    targets: Floats,
    kinds: Any,
    classes: Any,
    levels: Floats,
    rates: Floats,
    lam: float,
    before: Any,
    branch: Any,
    segment: int,
    magnitudes: Any,
    values: Floats,
) -> float:
    """Viterbi's algorithm over one column.

    Args:
        targets: What to approximate, in steps, ``[rows]``.
        kinds: Which levels each row's entry has, ``[rows]``.
        classes: Which probabilities it has, ``[rows]``.
        levels: Level of each magnitude, ``[kinds, magnitudes]``, about ``m + 1/2``.
        rates: Nats of each magnitude, ``[classes, magnitudes]``.
        lam: Squared error that a nat is worth.
        before: Predecessors of each state.
        branch: Branch bits on the way from them.
        segment: Rows after which the register starts anew.
        magnitudes: Output, ``[rows]``.
        values: Output, the signed levels chosen, ``[rows]``.

    Returns:
        Nats of all magnitudes chosen.
    """
    rows = len(targets)
    states = len(before)
    top = levels.shape[1] - 1
    cost = np.empty(states, np.float32)
    renewed = np.empty(states, np.float32)
    back = np.empty((min(segment, rows), states), np.uint8)
    best = np.empty((min(segment, rows), 4), np.int32)
    price = np.empty(4, np.float32)
    nats = 0.0
    for start in range(0, rows, segment):
        stop = min(rows, start + segment)
        cost[:] = _FAR / 4
        cost[0] = 0
        for row in range(start, stop):
            kind, group = kinds[row], classes[row]
            for sign in range(2):
                # the second union is the first one mirrored: mirror the target and look in the first
                target = -targets[row] if sign else targets[row]
                for bit in range(2):
                    offset = 0.5 + 2 * bit
                    nearest = math.floor((target - offset) * 0.25 + 0.5)
                    least, chosen = _FAR, 0
                    for neighbour in range(-1, 2):
                        place = offset + 4 * (nearest + neighbour)
                        magnitude = int(abs(place))
                        if magnitude > top:
                            if neighbour != 0:
                                continue
                            # beyond the last level: the last one of this subset and sign
                            magnitude = top
                            while (((magnitude + 1) >> 1) & 1) != bit or (magnitude & 1) != (place < 0):
                                magnitude -= 1
                        level = -levels[kind, magnitude] if place < 0 else levels[kind, magnitude]
                        total = (target - level) * (target - level) + lam * rates[group, magnitude]
                        if total < least:
                            least, chosen = np.float32(total), magnitude
                    price[2 * sign + bit] = least
                    best[row - start, 2 * sign + bit] = chosen
            smallest = _FAR
            for state in range(states):
                one, two = before[state, 0], before[state, 1]
                by_one = cost[one] + price[2 * (one & 1) + branch[state, 0]]
                by_two = cost[two] + price[2 * (two & 1) + branch[state, 1]]
                if by_one <= by_two:
                    renewed[state] = by_one
                    back[row - start, state] = 0
                else:
                    renewed[state] = by_two
                    back[row - start, state] = 1
                smallest = min(smallest, renewed[state])
            for state in range(states):
                cost[state] = renewed[state] - smallest
        state = 0
        for other in range(states):
            if cost[other] < cost[state]:
                state = other
        for row in range(stop - 1, start - 1, -1):
            way = back[row - start, state]
            state_before, bit = before[state, way], branch[state, way]
            sign = state_before & 1
            magnitude = best[row - start, 2 * sign + bit]
            level = levels[kinds[row], magnitude]
            magnitudes[row] = magnitude
            values[row] = -level if (magnitude + sign) & 1 else level
            nats += rates[classes[row], magnitude]
            state = state_before
    return nats


@numba.njit(cache=True, nogil=True)
def choose_scalar(
    targets: Floats,
    kinds: Any,
    classes: Any,
    levels: Floats,
    rates: Floats,
    lam: float,
    magnitudes: Any,
    values: Floats,
) -> float:
    """The same without a trellis: symbols are ``2 |k| - (k > 0)`` of levels ``k``, and zero is a level.

    The dead zone around zero is what the price of the bits makes of it.
    """
    top = (levels.shape[1] - 1) // 2
    nats = 0.0
    for row in range(len(targets)):
        kind, group = kinds[row], classes[row]
        size = abs(targets[row])
        nearest = int(min(float(top), math.floor(size + 0.5)))
        least, chosen = _FAR, 0
        for step in (0, nearest - 1, nearest, nearest + 1):
            if step < 0 or step > top:
                continue
            symbol = 2 * step - (1 if targets[row] > 0 and step > 0 else 0)
            total = (size - levels[kind, symbol]) ** 2 + lam * rates[group, symbol]
            if total < least:
                least, chosen = np.float32(total), symbol
        magnitudes[row] = chosen
        values[row] = levels[kind, chosen] if targets[row] > 0 else -levels[kind, chosen]
        nats += rates[group, chosen]
    return nats


@numba.njit(cache=True, nogil=True)
def assign_columns(
    targets: Floats,
    kinds: Any,
    levels: Floats,
    rates: Floats,
    lam: float,
    before: Any,
    branch: Any,
    segment: int,
    magnitudes: Any,
    values: Floats,
) -> None:
    """Choose each column of ``targets``, ``[columns, rows]`` in steps, by itself; the rest as ``choose``."""
    for column in range(len(targets)):
        some, kind = targets[column], kinds[column]
        if len(before) > 1:
            choose(
                some,
                kind,
                kind,
                levels,
                rates,
                lam,
                before,
                branch,
                segment,
                magnitudes[column],
                values[column],
            )
        else:
            choose_scalar(some, kind, kind, levels, rates, lam, magnitudes[column], values[column])


@numba.njit(cache=True, nogil=True)
def code_columns(
    work: Floats,
    factor: Floats,
    steps: Floats,
    row_scale: Floats,
    kinds: Any,
    classes: Any,
    levels: Floats,
    rates: Floats,
    lam: float,
    before: Any,
    branch: Any,
    segment: int,
    gain_steps: float,
    gain_limit: int,
    magnitudes: Any,
    values: Floats,
    gains: Any,
    errors: Floats,
    moments: Any,
    totals: Any,
) -> None:
    """Code a block of columns; the errors of each are taken from those that follow in it.

    Args:
        work: Targets, ``[block, rows]``: a column of the weight is a row in memory.
        factor: Upper Cholesky factor of the inverse hessian, ``[block, block]`` of it.
        steps: Step of each column, ``[block]``.
        row_scale: What each row is multiplied with before it is coded, ``[rows]``.
        kinds: As for ``choose``, ``[block, rows]``.
        classes: The same.
        levels: As for ``choose``.
        rates: As for ``choose``.
        lam: As for ``choose``.
        before: As for ``choose``; one state where there is no trellis.
        branch: As for ``choose``.
        segment: As for ``choose``.
        gain_steps: Steps of the coded gain in an octave.
        gain_limit: Largest code of a gain, of either sign.
        magnitudes: Output, ``[block, rows]``.
        values: Output, signed levels before step and gain, ``[block, rows]``.
        gains: Output, codes of the gains, ``[block]``.
        errors: Output, what the columns after the block are to be corrected with, ``[block, rows]``.
        moments: Added to: for each kind and each of the first magnitudes, how often it was chosen and the
            sum of the targets towards its sign, ``[kinds, magnitudes, 2]``.
        totals: Added to: squared error in steps, nats.
    """
    rows = work.shape[1]
    target = np.empty(rows, np.float32)
    for column in range(len(work)):
        corrected = work[column]
        for earlier in range(column):
            share = factor[earlier, column]
            if share != 0:
                for row in range(rows):
                    corrected[row] -= share * errors[earlier, row]
        step = steps[column]
        for row in range(rows):
            target[row] = corrected[row] * row_scale[row] / step
        if len(before) > 1:
            nats = choose(
                target,
                kinds[column],
                classes[column],
                levels,
                rates,
                lam,
                before,
                branch,
                segment,
                magnitudes[column],
                values[column],
            )
        else:
            nats = choose_scalar(
                target, kinds[column], classes[column], levels, rates, lam, magnitudes[column], values[column]
            )
        product, square = 0.0, 0.0
        for row in range(rows):
            product += values[column, row] * target[row]
            square += values[column, row] * values[column, row]
        code = 0
        if product > 0 and square > 0:
            code = round(math.log2(product / square) * gain_steps)
            code = max(-gain_limit, min(gain_limit, code))
            gain = 2.0 ** (code / gain_steps)
            if 2 * (gain - 1) * product - (gain * gain - 1) * square < _GAIN_NATS * lam:
                code = 0  # not worth its bits
        gains[column] = code
        gain = 2.0 ** (code / gain_steps)
        small = moments.shape[1]
        left = 0.0
        inverse = 1 / factor[column, column]
        for row in range(rows):
            value = gain * values[column, row]
            left += (target[row] - value) ** 2
            errors[column, row] = (corrected[row] - value * step / row_scale[row]) * inverse
            magnitude = magnitudes[column, row]
            if magnitude < small:
                kind = kinds[column, row]
                moments[kind, magnitude, 0] += 1
                moments[kind, magnitude, 1] += target[row] if values[column, row] > 0 else -target[row]
        totals[0] += left
        totals[1] += nats
