"""What an entropy-coded weight is made of, and what it decodes to.

magnitude, sign of the trellis, level of its class -> * step * gain of the column -> * those of the row -> weight
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fulgurite.codecs._trellis import signs_of

Floats = NDArray[np.float32]
Classes = NDArray[np.int64]

SMALL = 3  # magnitudes whose levels are centroids
LEVEL_STEPS = 128  # of a level's distance from where it is by default, in one unit
CLASSES = 64  # mean magnitudes from 2^-10 to 2^22, two to the octave
CLASS_OF_ONE = 20
GAIN_STEPS = 16  # of an octave: off by 1.3 % on average, far less than the codes are
GAIN_LIMIT = 7
_CACHED = 1 << 15  # bytes that several operations pass over


@dataclass
class Solution:
    """An encoded matrix, columns in their natural order.

    Args:
        base: Step of a column with code 0 in a row with code 0, in units of the weight.
        states: Of the trellis; 1 where there is none.
        segment: Rows of one sequence.
        magnitudes: ``[in, out]``: one column of the weight is one row.
        step_codes: Of each column: its step is ``base * 2 ** (-code / step_resolution(out))``; not negative.
        row_codes: Of each row, the same with ``step_resolution(in)``.
        gain_codes: Of each column: what its levels are multiplied with is ``2 ** (code / GAIN_STEPS)``.
        row_gain_codes: Of each row, the same; 0 until refinement has trained them.
        row_classes: ``[out]``; an entry's class is the sum of its row's and its column's.
        column_classes: ``[in]``.
        level_codes: ``[CLASSES, SMALL]``, see ``level_table``.
        error: What the encoder made of the weighted error; not stored.
    """

    base: float
    states: int
    segment: int
    magnitudes: NDArray[np.int32]
    step_codes: Classes
    row_codes: Classes
    gain_codes: Classes
    row_gain_codes: Classes
    row_classes: Classes
    column_classes: Classes
    level_codes: Classes
    error: float = 0.0

    @property
    def classes(self) -> NDArray[np.uint8]:
        """Class of each entry, ``[in, out]``."""
        return entry_classes(self.row_classes, self.column_classes)


def entry_classes(row_classes: Classes, column_classes: Classes) -> NDArray[np.uint8]:
    """Sums of the classes of row and column, ``[in, out]``."""
    total = column_classes.astype(np.int16)[:, None] + row_classes.astype(np.int16)
    return np.clip(total, 0, CLASSES - 1, out=total).astype(np.uint8)


@dataclass(frozen=True)
class Blocks:
    """The rectangles of one class in a matrix whose rows and columns are sorted by their classes.

    A group of symbols that share their statistics is then a few slices, with no index for each symbol.

    Args:
        row_order: Rows by class, ``[out]``.
        column_order: Columns by class, ``[in]``.
        slices: For each class that occurs, rising: the slices of columns and rows that have it.
    """

    row_order: Classes
    column_order: Classes
    slices: dict[int, list[tuple[slice, slice]]]

    @classmethod
    def of(cls, row_classes: Classes, column_classes: Classes) -> Blocks:
        """Sort the rows and columns, and find the rectangles."""
        row_order, rows = _runs(row_classes)
        column_order, columns = _runs(column_classes)
        slices: dict[int, list[tuple[slice, slice]]] = {}
        for column_class, column_slice in columns:
            for row_class, row_slice in rows:
                kind = min(max(column_class + row_class, 0), CLASSES - 1)
                slices.setdefault(kind, []).append((column_slice, row_slice))
        return cls(row_order, column_order, dict(sorted(slices.items())))

    def sort(self, matrix: NDArray[np.int32]) -> NDArray[np.int32]:
        """``[in, out]`` with columns and rows in order of their classes."""
        return matrix[self.column_order][:, self.row_order]

    def unsort(self, matrix: NDArray[np.int32]) -> NDArray[np.int32]:
        """The inverse of ``sort``."""
        if len(self.slices) > 1:
            matrix = matrix[np.argsort(self.column_order)][:, np.argsort(self.row_order)]
        return matrix


def _runs(classes: Classes) -> tuple[Classes, list[tuple[int, slice]]]:
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    stops = [*starts[1:].tolist(), len(classes)]
    runs = zip(found.tolist(), starts.tolist(), stops, strict=True)
    return order, [(kind, slice(start, stop)) for kind, start, stop in runs]


def step_resolution(length: int) -> int:
    """Codes in an octave of scales that ``length`` entries share.

    A step that is off by ``d`` octaves costs ``0.96 d^2`` of the error on average at one rate; a bit of its code
    costs ``1 / length`` a weight. The sum is least at about ``sqrt(length) / 3.5``.
    """
    return 1 << max(0, math.ceil(math.log2(math.sqrt(length) / 3.5)))


def low_bits(kind: int) -> int:
    """Low bits of magnitudes of a class that are packed as they are: what is left has a mean below 16."""
    return max(0, (kind - CLASS_OF_ONE) // 2 - 3)


def escape(kind: int) -> int:
    """Largest entry of a class's table, far above its mean: shorter tables are faster to read."""
    return 15 if kind < CLASS_OF_ONE + 2 else 31 if kind < CLASS_OF_ONE + 4 else 63


def level_table(codes: Classes, top: int, states: int) -> Floats:
    """Level of each magnitude in each class, ``[CLASSES, top + 1]``.

    ``m + 1/2`` of a trellis, ``(m + 1) // 2`` without one (whose symbols hold the sign), moved by ``code / 128`` for
    the first ones; always positive but for a scalar's zero.
    """
    default = np.arange(top + 1) + 0.5 if states > 1 else (np.arange(top + 1) + 1) // 2
    table = np.tile(default.astype(np.float32), (CLASSES, 1))
    small = min(SMALL, top + 1)
    table[:, :small] += codes[:, :small].astype(np.float32) / LEVEL_STEPS
    first = 0 if states > 1 else 1
    table[:, first:] = np.maximum(table[:, first:], np.float32(1 / LEVEL_STEPS))
    return table


def coded_values(solution: Solution) -> Tensor:
    """What is coded, in units of the weight but for the gains: float32 ``[in, out]``.

    Some columns at a time, so that the passes over them stay in cache.
    """
    columns, rows = solution.magnitudes.shape
    top = int(solution.magnitudes.max())
    table = torch.from_numpy(level_table(solution.level_codes, top, solution.states)).reshape(-1)
    row_places = torch.from_numpy(solution.row_classes.astype(np.int32))
    column_places = torch.from_numpy(solution.column_classes.astype(np.int32))
    steps = solution.base * scales(-solution.step_codes, step_resolution(rows))
    row_scale = scales(-solution.row_codes, step_resolution(columns))
    values = torch.empty(columns, rows)
    some = max(1, _CACHED // rows)
    for start in range(0, columns, some):
        part = slice(start, min(start + some, columns))
        magnitudes = torch.from_numpy(solution.magnitudes[part])
        places = (
            (column_places[part, None] + row_places).clamp_(0, CLASSES - 1).mul_(top + 1).add_(magnitudes)
        )
        out = values[part]
        torch.index_select(table, 0, places.reshape(-1), out=out.view(-1))
        out *= 1 - 2 * _negative(magnitudes, solution).float()
        out *= steps[part, None]
        out *= row_scale
    return values


def _negative(magnitudes: Tensor, solution: Solution) -> Tensor:
    """Whether the level of each is negative, ``[columns, out]`` of 0 and 1."""
    columns, rows = magnitudes.shape
    if solution.states == 1:
        return (magnitudes & 1) ^ 1  # symbols 2 |k| - (k > 0); zero has no sign
    # every column is cut into segments that start in state 0; what is missing in the last is made up
    segment = min(solution.segment, rows)
    small = (magnitudes & 3).to(torch.uint8)  # parities and branches depend on two bits
    padded = functional.pad(small, (0, -rows % segment)).reshape(-1, segment)
    return signs_of(padded, solution.states).reshape(columns, -1)[:, :rows]


def scales(codes: Classes, resolution: int) -> Tensor:
    """``2 ** (code / resolution)``, float32."""
    return torch.exp2(torch.from_numpy(codes).double() / resolution).float()
