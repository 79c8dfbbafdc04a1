"""Where zeros may lie: anywhere, N of each M left, or whole blocks.

    scores [out, in], share -> Pattern.drop -> which weights go

A single weight is a block of 1x1, so that there are two kinds: blocks of which a share goes, and groups of which
a number stays. "2:4" is two weights kept of each four consecutive inputs, as sparse tensor cores read them
(Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, https://arxiv.org/abs/2104.08378).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_WIDEST_GROUP = 16
_WIDEST_BLOCK = 1024
_SLACK = 1e-6  # a share of 0.3 of 10 weights is 3, and 2.9999999999999996 in floats


@dataclass(frozen=True)
class Pattern:
    """A pattern of zeros.

    Args:
        text: ``unstructured``; ``N:M`` with ``1 <= N < M <= 16``; or ``RxC``, blocks of R outputs and C inputs, whose
            last ones at an edge are cut.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> Pattern("1:2").drop(torch.tensor([[3.0, 1.0, 2.0, 5.0]])).tolist()
        [[False, True, True, False]]
    """

    text: str = "unstructured"

    def __post_init__(self) -> None:
        self._parsed  # noqa: B018 (refuses what it cannot read)

    @cached_property
    def _parsed(self) -> tuple[int, int, int]:
        if self.text == "unstructured":
            return 1, 1, 0
        found = re.fullmatch(r"(\d{1,4})([:x])(\d{1,4})", self.text) if isinstance(self.text, str) else None
        if found is None:
            raise ValueError(
                f'pattern must be unstructured, N:M such as "2:4", or a block such as "4x4", got {self.text!r}'
            )
        first, second = int(found[1]), int(found[3])
        if found[2] == ":":
            if not 1 <= first < second <= _WIDEST_GROUP:
                raise ValueError(f"pattern N:M must have 1 <= N < M <= {_WIDEST_GROUP}, got {self.text!r}")
            return 1, second, first
        if not (1 <= first <= _WIDEST_BLOCK and 1 <= second <= _WIDEST_BLOCK):
            raise ValueError(f"a block's sides must be in [1, {_WIDEST_BLOCK}], got {self.text!r}")
        return first, second, 0

    @property
    def rows(self) -> int:
        """Outputs of a block; 1 for all but blocks."""
        return self._parsed[0]

    @property
    def columns(self) -> int:
        """Inputs of a block, or of a group of which a number is kept."""
        return self._parsed[1]

    @property
    def keep(self) -> int:
        """How many of each group stay: the N of N:M, and 0 where a share decides."""
        return self._parsed[2]

    @property
    def share(self) -> float | None:
        """The share of zeros that the pattern itself says; ``None`` where it says none."""
        return 1 - self.keep / self.columns if self.keep else None

    def check(self, columns: int) -> None:
        """Check that a weight with so many inputs can have this pattern.

        Raises:
            ValueError: If groups of N:M do not divide the row.
        """
        if self.keep and columns % self.columns:
            raise ValueError(
                f'pattern "{self.text}" needs rows of a multiple of {self.columns} weights, got rows of {columns}'
            )

    def drop(
        self, scores: Tensor, share: float = 0.5, *, per_row: bool = False, inputs: Tensor | None = None
    ) -> Tensor:
        """Which weights go: those of the lowest scores, the first ones among equals.

        Args:
            scores: What each weight is worth, ``[out, n]``; a block is worth the mean of its weights.
            share: Of the weights, at most; a pattern N:M has its own.
            per_row: Take that share of each row (of blocks) and not of all.
            inputs: Which inputs the columns are, ``[n]``, whole blocks together; the first ``n`` by default.

        Returns:
            Boolean ``[out, n]``.
        """
        if self.keep:
            groups = scores.reshape(len(scores), -1, self.columns)
            lowest = groups.sort(dim=-1, stable=True).indices[..., : self.columns - self.keep]
            return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, lowest, True).reshape(scores.shape)
        if self.rows == self.columns == 1:
            return _lowest(scores, None, share, per_row)
        rows = torch.arange(len(scores), device=scores.device) // self.rows
        if inputs is None:
            inputs = torch.arange(scores.shape[1], device=scores.device)
        columns = torch.unique(inputs // self.columns, return_inverse=True)[1]
        heights, widths = rows.bincount(), columns.bincount()
        sums = scores.new_zeros(len(heights), scores.shape[1], dtype=torch.float64)
        sums.index_add_(0, rows, scores.double())
        blocks = torch.zeros(len(heights), len(widths), dtype=torch.float64, device=scores.device)
        blocks.index_add_(1, columns, sums)
        sizes = torch.outer(heights, widths)
        return _lowest(blocks / sizes, sizes, share, per_row)[rows][:, columns]

    def more(self, severe: bool) -> Pattern | None:
        """N:M with one more of each group kept, or a quarter of the group after a severe loss."""
        if not self.keep or self.keep + 1 >= self.columns:
            return None
        kept = min(self.columns - 1, self.keep + (max(1, self.columns // 4) if severe else 1))
        return Pattern(f"{kept}:{self.columns}")

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """How many blocks a matrix has down and across, those at the edges included."""
        return math.ceil(rows / self.rows), math.ceil(columns / self.columns)


def _lowest(scores: Tensor, sizes: Tensor | None, share: float, per_row: bool) -> Tensor:
    """The entries of the lowest scores that make up at most a share of all, or of each row."""
    lines = scores if per_row else scores.reshape(1, -1)
    order = lines.sort(dim=1, stable=True).indices
    if sizes is None:
        counts = torch.arange(1, lines.shape[1] + 1, device=lines.device)
        goes = (counts <= share * lines.shape[1] + _SLACK).expand_as(lines)
    else:
        sizes = sizes.reshape(lines.shape)
        goes = sizes.gather(1, order).cumsum(1) <= share * sizes.sum(1, keepdim=True) + _SLACK
    return torch.zeros_like(lines, dtype=torch.bool).scatter_(1, order, goes).reshape(scores.shape)
