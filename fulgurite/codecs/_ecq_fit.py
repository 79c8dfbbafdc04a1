r"""The search for an entropy-coded weight: steps, magnitudes, levels and gains at a wanted rate.

    hessian -> U (U^T U = H^-1) -> steps c * U_jj / sqrt(a_i) -> columns by Viterbi, errors fed onwards
                  ^                                                  \-> magnitudes -> rate -> another c

With the step of each column proportional to ``U_jj`` (which is ``1 / L_jj`` of WaterSIC), every coordinate
gets the same share of the weighted error ``sum_i a_i e_i H e_i^T``: reverse water-filling. One constant ``c``,
found by a secant search, gives the rate. Between two passes everything that the coder adapts to is taken from the
last: the classes of rows and columns, the nats of each magnitude in each class, and the centroids of the first levels.

Reference: "WaterSIC", ICML 2026, https://arxiv.org/abs/2603.04956. Differs from the paper: a trellis in
place of rounding, a price for bits, centroids, weighted rows, and steps rounded to fractions of an octave.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.codecs._ecq_solution import (
    CLASS_OF_ONE,
    CLASSES,
    GAIN_LIMIT,
    GAIN_STEPS,
    LEVEL_STEPS,
    SMALL,
    Classes,
    Floats,
    Solution,
    entry_classes,
    level_table,
    low_bits,
    step_resolution,
)
from fulgurite.codecs._hessian import damped_inverse_cholesky
from fulgurite.codecs._trellis import register

BLOCK = 32  # columns between two updates of all that follow; within a block the kernel does them
SHORTEST = 32  # rows from which a trellis pays: each sequence starts in a known state
LONGEST = 1024  # rows in one sequence, so that the way back through it stays in cache
_FEW = 1 << 17  # weights on which the constant is found
_FEW_ROWS = 64
_ROUNDS = 2  # of a search for the constant and a pass that learns at it
_SECANTS = 4
_NEAR = 0.2  # octaves of the rate within which what was learnt at one serves for another
_TOP = 1 << 14  # largest magnitude; beyond lie outliers that no step of 0.1 to 8 bits meets
_DEFAULT_WEIGHT = 8.0  # occurrences that the geometric law of a class counts for
_EVENTS = 16.0  # that the prediction of a row's or a column's mean counts for
_CLASS_BITS = 48.0  # that one more class takes: its levels, and learning its probabilities
_FAINT = 1e-4  # of the mean power: rows and columns below it are zeros at any rate
_WIDEST = 3.0  # octaves that the mean step of a row may be above the row's own root mean square
_LEAST_COUNT = 30  # choices that make a centroid


def price(states: int, rate: float) -> float:
    """Squared steps that a nat is worth: where the error is least at one rate, on Gaussian entries.

    At high rates it is twice the squared error of a step, as ``dD/dR = -2D`` has it. Following that rule below 1 bit
    would lead astray: all zeros, at twice the variance a nat, fulfil it at any step.
    """
    return 0.17 if states == 1 else 0.46 + 0.16 / (rate + 0.1)


def rate_table(counts: NDArray[np.floating], top: int) -> Floats:
    """Nats of each magnitude in each class: what was counted, and a geometric law of the class's mean.

    Args:
        counts: ``[CLASSES, magnitudes]``, at least ``top + 1`` of these.
        top: Largest magnitude.
    """
    magnitudes = np.arange(top + 1)
    means = 2.0 ** ((np.arange(CLASSES) - CLASS_OF_ONE) / 2)
    # nats of the law, kept finite in the tail of a class near zero
    law = magnitudes * np.minimum(np.log1p(1 / means), 12.0)[:, None] + np.log1p(means)[:, None]
    counts = counts[:, : top + 1]
    total = counts.sum(1, keepdims=True)
    counted = (counts + _DEFAULT_WEIGHT * np.exp(-law)) / (total + _DEFAULT_WEIGHT)
    nats = np.minimum(-np.log(np.maximum(counted, 1e-30)), law + np.log1p(total / _DEFAULT_WEIGHT))
    return np.asarray(nats, dtype=np.float32)


def count_magnitudes(magnitudes: NDArray[np.int32], kinds: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each magnitude occurs in each class, ``[CLASSES, largest magnitude + 1]``."""
    width = int(magnitudes.max()) + 1
    joint = np.bincount((kinds.astype(np.int64) * width + magnitudes).reshape(-1), minlength=CLASSES * width)
    return joint.reshape(CLASSES, width)


class Search:
    """Quantise one matrix at any constant, as often as asked.

    Args:
        matrix: ``[out, in]`` float32, finite.
        hessian: ``[in, in]`` or none.
        row_weight: ``[out]`` or none.
        states: Of the trellis; too few rows have none.
        damping: Share of the hessian's mean diagonal that is added to it.
        rate: Bits per weight that will be asked for, roughly: the price of a bit follows it.
    """

    def __init__(
        self,
        matrix: Tensor,
        hessian: Tensor | None,
        row_weight: Tensor | None,
        states: int,
        damping: float,
        rate: float,
    ) -> None:
        from fulgurite.codecs import _trellis_kernel  # compiles on first use: only encoders need it

        self._kernel = _trellis_kernel
        self.rows, self.columns = matrix.shape
        self.states = states if self.rows >= SHORTEST else 1
        self.segment = math.ceil(self.rows / math.ceil(self.rows / LONGEST))
        self._order = np.arange(self.columns)
        self._factor: Floats | None = None
        log_steps = np.zeros(self.columns)
        if hessian is not None:
            order = hessian.diagonal().sort(descending=True, stable=True).indices
            factor = damped_inverse_cholesky(hessian[order][:, order], damping)
            self._order = order.cpu().numpy()
            self._factor = factor.float().cpu().numpy()
            log_steps = np.log2(factor.diagonal().cpu().numpy())
        self._work: Floats = matrix.cpu().T[torch.from_numpy(self._order)].contiguous().numpy()
        self._largest_step = float(log_steps.max())
        self._step_codes = _codes(self._largest_step - log_steps, step_resolution(self.rows))
        row_logs = np.zeros(self.rows)
        if row_weight is not None:
            weight = row_weight.detach().double().cpu().numpy()
            if weight.max() > 0:
                row_logs = -0.5 * np.log2(np.maximum(weight, 1e-6 * weight.max()))
        self._set_row_steps(row_logs)
        if self.states > 1:
            self._before, self._branch = self._kernel.predecessors(self.states, *register(self.states))
        else:
            self._before = self._branch = np.zeros((1, 2), np.int32)
        self._lam = price(self.states, rate)
        self._constant: float | None = None
        self._rate = rate
        # what a pass learns for the next one
        self._counts = np.zeros((CLASSES, _TOP + 1), np.float32)
        self._level_codes = np.zeros((CLASSES, SMALL), np.int64)
        power = float(np.square(self._work, dtype=np.float64).mean())
        self.is_zero = power == 0
        self._row_prediction = self._predicted(power)
        if power and row_weight is not None:
            self._set_row_steps(self._bounded_rows(row_logs, power, rate))
            self._row_prediction = self._predicted(power)
        rms = np.sqrt(np.square(self._work * self._row_scale, dtype=np.float64).mean(1) + _FAINT * power)
        self._column_prediction = (np.log2(rms) if power else np.zeros(self.columns)) - self._log_steps(0.0)
        self._column_prediction -= self._column_prediction.mean()
        gaussian = self._row_prediction.mean() - (rate - 1.0)  # a mean of about 2^(rate - 1) steps
        self._row_log = self._row_prediction - gaussian
        self._column_log = self._column_prediction.copy()

    def _set_row_steps(self, logs: NDArray[np.float64]) -> None:
        """Take log2 of the rows' steps, but for a constant."""
        self._largest_row_step = float(logs.max())
        self._row_codes = _codes(self._largest_row_step - logs, step_resolution(self.columns))
        self._row_scale = (2.0 ** (self._row_codes / step_resolution(self.columns))).astype(np.float32)

    def _predicted(self, power: float) -> NDArray[np.float64]:
        """Log2 of the mean magnitude of rows, but for a constant."""
        if not power:
            return np.zeros(self.rows)
        rms = np.sqrt(np.square(self._work * self._row_scale, dtype=np.float64).mean(0) + _FAINT * power)
        return np.asarray(np.log2(rms))

    def _bounded_rows(self, logs: NDArray[np.float64], power: float, rate: float) -> NDArray[np.float64]:
        """Steps of rows that are not far beyond what lies in them.

        A trellis has no level at zero, so a row that counts for nothing would come back as noise of its step's size.
        For its own weight alone that is as good as any; but in attention the rows of values that nobody reads meet
        columns of the output that nobody writes to, and the product of two such noises counts.
        """
        own = np.log2(np.sqrt(np.square(self._work, dtype=np.float64).mean(0) + 1e-12 * power))
        mean_step = self._log_steps(self.first_constant(rate)).mean() - self._largest_row_step
        kept = np.minimum(logs, own + _WIDEST - mean_step)
        return np.asarray(np.maximum(kept, logs.min()))

    def _log_steps(self, log_constant: float) -> NDArray[np.float64]:
        return log_constant + self._largest_step - self._step_codes / step_resolution(self.rows)

    def first_constant(self, rate: float) -> float:
        """Log2 of the constant at which Gaussian entries would have the rate."""
        # in steps of size 1, 0.5 log2(2 pi e) + log2(sigma); a union of the trellis has half of the levels
        entropy = 2.047 - (1 if self.states > 1 else 0)
        return float(self._row_prediction.mean() - self._log_steps(0.0).mean() + entropy - rate)

    def at_entropy(self, rate: float) -> Solution:
        """The solution whose magnitudes have an entropy near ``rate`` bits per weight.

        The constant is found on a part of a large weight's rows.
        """
        some = slice(None, None, max(1, self.rows // max(_FEW_ROWS, _FEW // self.columns)))
        if self._constant is None or abs(math.log2(rate / self._rate)) > _NEAR:
            if self._constant is None:
                self._constant = self._bounded(self.first_constant(rate))
            self._rate = rate
            for _ in range(_ROUNDS):
                self._constant = self._approach(self._constant, rate, some)
                self.run(self._constant, some)
            self.run(self._constant)  # every row's and column's own statistics
            self._constant = self._approach(self._constant, rate, some)
        for _ in range(3):
            solution, bits = self.run(self._constant, learn=False)
            if abs(bits - rate) <= 2e-3 * rate:
                break
            self._constant = self._bounded(self._constant + self._step_for(bits, rate))
        return solution

    def _bounded(self, constant: float) -> float:
        """Steps so large that nothing but zeros is chosen, or that outliers pass the last level, help nobody."""
        if self.is_zero:
            return constant
        largest = np.abs(self._work * self._row_scale).max(1)
        least = float((np.log2(np.maximum(largest, 1e-30)) - self._log_steps(0.0)).max()) - math.log2(
            _TOP / 4
        )
        return max(least, min(constant, self.first_constant(0.0) + 1.5))

    def _approach(self, constant: float, rate: float, rows: slice) -> float:
        """Secant search for the constant that gives the rate with what the coder knows now."""
        last: tuple[float, float] | None = None
        for _ in range(_SECANTS):
            _, bits = self.run(constant, rows, learn=False)
            if abs(bits - rate) <= 5e-3 * rate:
                break
            step = self._step_for(bits, rate)
            logs = math.log2(max(bits, 1e-4) / rate)
            if last is not None and abs(logs - last[1]) > 1e-6:
                slope = (logs - last[1]) / (constant - last[0])
                if slope < -0.1:
                    step = max(-1.0, min(1.0, -logs / slope))
            last = constant, logs
            constant = self._bounded(constant + step)
        return constant

    def _step_for(self, bits: float, rate: float) -> float:
        """How much to add to the log of the constant: a bit is an octave of the step at high rates."""
        logs = math.log2(max(bits, 1e-4) / rate)
        return max(-1.0, min(1.0, logs * max(0.35, 0.69 * (bits + rate) / 2)))

    def run(
        self, log_constant: float, rows: slice = slice(None), learn: bool = True
    ) -> tuple[Solution, float]:
        """One pass over some or all rows.

        Args:
            log_constant: Log2 of the constant.
            rows: Which rows.
            learn: Take up what the pass shows for the next one. Without it the rate falls steadily with the
                constant; with it, few bits make bits dear and so fewer, which swings at low rates.

        Returns:
            The solution, and its bits per weight by the entropy of each class.
        """
        work = np.array(self._work[:, rows], order="C")  # the kernel writes to it
        count = work.shape[1]
        base = np.float32(2.0 ** (log_constant + self._largest_step))
        steps = (base * 2.0 ** (-self._step_codes / step_resolution(self.rows))).astype(np.float32)
        row_scale = np.ascontiguousarray(self._row_scale[rows])
        row_classes, column_classes = self._classes(rows)
        kinds = entry_classes(row_classes, column_classes)
        top = self._top(work, steps, row_scale)
        levels, rates = level_table(self._level_codes, top, self.states), rate_table(self._counts, top)
        magnitudes = np.zeros((self.columns, count), np.int32)
        values = np.zeros((self.columns, count), np.float32)
        gains = np.zeros(self.columns, np.int64)
        moments, totals = np.zeros((CLASSES, SMALL, 2)), np.zeros(2)
        factor = self._factor
        for start in range(0, self.columns, BLOCK):
            some = slice(start, min(start + BLOCK, self.columns))
            size = some.stop - start
            errors = np.zeros((size, count), np.float32)
            block = np.eye(size, dtype=np.float32)
            if factor is not None:
                block = np.ascontiguousarray(factor[some, some])
            self._kernel.code_columns(
                work[some],
                block,
                steps[some],
                row_scale,
                kinds[some],
                kinds[some],
                levels,
                rates,
                self._lam,
                self._before,
                self._branch,
                self.segment,
                float(GAIN_STEPS),
                GAIN_LIMIT,
                magnitudes[some],
                values[some],
                gains[some],
                errors,
                moments,
                totals,
            )
            if factor is not None and some.stop < self.columns:
                work[some.stop :] -= factor[some, some.stop :].T @ errors
        natural = np.argsort(self._order)
        solution = Solution(
            # rows with the smallest weight have code 0, and the largest step
            float(base),
            self.states,
            self.segment,
            magnitudes[natural],
            self._step_codes[natural],
            self._row_codes[rows],
            gains[natural],
            np.zeros(work.shape[1], np.int64),
            row_classes,
            column_classes[natural],
            # what was chosen has moved a little from the levels that it was chosen by
            self._centroids(moments),
            error=float(totals[0]) * float(base) ** 2,
        )
        joint = count_magnitudes(magnitudes, kinds)
        if learn:
            self._learn(magnitudes, joint, moments, rows)
        return solution, entropy(joint)

    def _top(self, work: Floats, steps: Floats, row_scale: Floats) -> int:
        """Largest magnitude that a pass may need; feedback moves targets by little beside it."""
        largest = float((np.abs(work).max(1) / steps).max()) * float(row_scale.max())
        largest *= 1.5 if self.states > 1 else 3.0
        return int(min(_TOP, math.ceil(largest) + 8))

    def _classes(self, rows: slice) -> tuple[Classes, Classes]:
        """Class of each row and column as the last pass lets expect them; their sum is the entry's."""
        return _class(self._row_log[rows]) + CLASS_OF_ONE, _class(self._column_log)

    def _learn(
        self,
        magnitudes: NDArray[np.int32],
        joint: NDArray[np.int64],
        moments: NDArray[np.float64],
        rows: slice,
    ) -> None:
        """Take up what a pass has shown."""
        symbols = magnitudes if self.states > 1 else (magnitudes + 1) // 2
        self._counts[:] = 0
        self._counts[:, : joint.shape[1]] = joint
        # rank one in the logarithm: row means times column means over the mean
        total = float(symbols.mean()) + 1e-6
        column_log = _expected(symbols.sum(1), symbols.shape[1], total, self._column_prediction)
        prediction = self._row_prediction[rows] - self._row_prediction[rows].mean()
        measured = _expected(symbols.sum(0), symbols.shape[0], total, prediction)
        constant = math.log2(total)
        use_rows, use_columns = _worth(magnitudes, _class(measured), _class(column_log))
        self._column_log = column_log if use_columns else np.zeros(self.columns)
        self._row_log = np.full(self.rows, constant)
        if use_rows:
            self._row_log += self._row_prediction - self._row_prediction[rows].mean()
            self._row_log[rows] = measured + constant
        self._level_codes = self._centroids(moments)

    def _centroids(self, moments: NDArray[np.float64]) -> Classes:
        """Codes of the levels that are nearest to what was coded by them, ``[CLASSES, SMALL]``."""
        counts = moments[:, :, 0]
        default = np.arange(SMALL) + 0.5 if self.states > 1 else (np.arange(SMALL) + 1) // 2
        centroids = moments[:, :, 1] / np.maximum(counts, 1)
        codes = np.clip(np.rint((centroids - default) * LEVEL_STEPS), -127, 127).astype(np.int64)
        if self.states == 1:
            codes[:, 0] = 0  # zero is zero
        enough = counts >= _LEAST_COUNT
        codes = np.where(enough, codes, 0)
        for kind in range(1, CLASSES):  # a class with too few entries takes the levels of the one before
            codes[kind] = np.where(enough[kind], codes[kind], codes[kind - 1])
        return codes


def _class(logs: NDArray[np.float64]) -> Classes:
    return np.rint(2 * logs).astype(np.int64)


def _worth(magnitudes: NDArray[np.int32], row: Classes, column: Classes) -> tuple[bool, bool]:
    """Whether classes of rows, of columns or both save more bits than they take."""

    def cost(use_rows: bool, use_columns: bool) -> float:
        kept = row if use_rows else np.zeros_like(row), column if use_columns else np.zeros_like(column)
        kinds = entry_classes(kept[0] + CLASS_OF_ONE, kept[1])
        bits = entropy(count_magnitudes(magnitudes, kinds)) * magnitudes.size + _CLASS_BITS * len(
            np.unique(kinds)
        )
        for classes in kept:
            found = np.bincount(classes - classes.min())
            found = found[found > 0]
            bits += float(found @ np.log2(len(classes) / found)) + _CLASS_BITS / 4 * len(found)
        return bits

    options = [(False, False), (True, False), (False, True), (True, True)]
    return min(options, key=lambda option: cost(*option))


def entropy(joint: NDArray[np.int64]) -> float:
    """Bits per symbol as the coder takes them: low bits as they are, the rest by what its class has seen."""
    bits = 0.0
    for kind in np.flatnonzero(joint.any(1)):
        counts, low = joint[kind], low_bits(int(kind))
        if low:
            padded = np.pad(counts, (0, -len(counts) % (1 << low)))
            counts = padded.reshape(-1, 1 << low).sum(1)
        found = counts[counts > 0]
        total = found.sum()
        # learning the probabilities takes half a logarithm of the count for each
        bits += total * low + found @ np.log2(total / found) + 0.5 * (len(found) - 1) * np.log2(total)
    return float(bits / joint.sum())


def _expected(
    sums: NDArray[np.int64], count: int, mean: float, prediction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log2 of means over ``mean``: what was counted, with a few events as the prediction would have them.

    Without these, a row with few events would be priced out of having any in the next pass.
    """
    predicted = mean * 2.0 ** np.clip(prediction, -8, 8)
    return np.asarray(np.log2((sums + _EVENTS) / (count + _EVENTS / predicted) / mean))


def _codes(octaves: NDArray[np.float64], resolution: int) -> Classes:
    return np.rint(octaves * resolution).astype(np.int64)
