"""The search of VPTQ: scales, codebooks and codes of one weight under its hessian.

scale -> codebooks -> codes with error feedback -> codebooks, scale by least squares -> again, while better
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fulgurite.codecs._codebook_update import decode_parts, update_codebooks, update_scale
from fulgurite.codecs._hessian import definite, error_feedback, weighted_error
from fulgurite.codecs._vptq_columns import Columns
from fulgurite.codecs.base import to_half

_CHUNK = 1 << 20  # weights at a time
_ROUNDS = 2  # codes, then codes again for the updated codebook; a third round wins about half a percent


@dataclass(frozen=True)
class Plan:
    """What of a ``VptqCodec`` the search needs; ``sizes`` are the codewords of each stage."""

    vector_length: int
    sizes: tuple[int, ...]
    num_groups: int
    outlier_share: float
    outlier_vector_length: int
    outlier_codebook_size: int
    column_norm: bool
    iterations: int
    second_order: bool
    damping: float
    seed: int


@dataclass
class Solution:
    """Codes, codebooks and scales of one weight.

    Args:
        main: The groups of columns, in order.
        outliers: The columns with a codebook of their own.
        scale: Of each row, 16-bit, ``[out]``.
        column_scale: Of each column, 16-bit, ``[in]``.
        num_columns: Width of the weight.
        emphasis: Root of what a squared error costs in each row, ``[out]``; the codes know nothing of it.
    """

    main: list[Columns]
    outliers: Columns | None
    scale: Tensor
    column_scale: Tensor | None
    num_columns: int
    emphasis: Tensor

    @property
    def parts(self) -> list[Columns]:
        """All columns."""
        return [*self.main, self.outliers] if self.outliers is not None else self.main

    def snapshot(self) -> Solution:
        """As it is now; see ``Columns.snapshot``."""
        outliers = None if self.outliers is None else self.outliers.snapshot()
        return replace(self, main=[part.snapshot() for part in self.main], outliers=outliers)

    @property
    def column(self) -> Tensor:
        """Scale of each column as a factor, ``[in]``."""
        if self.column_scale is None:
            return torch.ones(self.num_columns, device=self.scale.device)
        return self.column_scale.float()

    @property
    def row(self) -> Tensor:
        """Scale of each row times its emphasis, ``[out]``: rows that decode to the emphasised weight."""
        return self.scale.float() * self.emphasis

    def error(self, target: Tensor, metric: Tensor | None) -> float:
        """Weighted squared error of what the decoder will see; ``target`` is emphasised, ``[in, out]``."""
        row, column = self.row, self.column
        if metric is not None:
            books = [part.codebooks for part in self.parts]
            return weighted_error((target - decode_parts(self.parts, books, row, column)).T, metric)
        total = 0.0
        for part in self.parts:
            for some in part.slices(len(row)):
                decoded = part.image(part.codebooks, len(row), some) * row * column[part.index[some], None]
                total += weighted_error(target[part.index[some]] - decoded, None)
        return total


def scales_of(matrix: Tensor, column_norm: bool) -> tuple[Tensor, Tensor | None]:
    """16-bit root mean squares of the rows, and of the columns before them where asked."""
    column = None
    if column_norm:
        size = matrix.square().mean(0).sqrt()
        column = to_half(size / size.mean() if size.any() else size)
        matrix = over(matrix, column.float())
    some = torch.split(matrix, max(1, _CHUNK // matrix.shape[1]))
    return to_half(torch.cat([rows.square().mean(1) for rows in some]).sqrt()), column


def over(values: Tensor, scale: Tensor) -> Tensor:
    """Divide; where the scale is zero the values are too, and stay."""
    return torch.where(scale > 0, values / scale, 0)


def row_weights(row: Tensor) -> Tensor:
    """What a squared error of a row costs once divided by its scale, at most 1, ``[out]``.

    Args:
        row: Scale of each row times its emphasis.
    """
    return (row / row.max().clamp_min(1e-38)).square()


def emphasis_of(row_weight: Tensor | None, rows: int, damping: float, device: torch.device) -> Tensor:
    """Root of the rows' weights, damped as a hessian is: a row that calibration left at 0 is still coded.

    Args:
        row_weight: Not negative, ``[rows]``; ``None`` or all zero: each row counts alike.
        rows: Of the weight.
        damping: Share of the mean that is added to each.
        device: Of the result.
    """
    if row_weight is None or not row_weight.any():
        return torch.ones(rows, device=device)
    costs = row_weight.detach().to(device, torch.float64)
    return (costs / costs.mean() + damping).sqrt().float()


def solve(
    matrix: Tensor,
    hessian: Tensor | None,
    plan: Plan,
    shared: Sequence[Tensor] = (),
    row_weight: Tensor | None = None,
) -> Solution:
    """Find codes and codebooks.

    Args:
        matrix: Float32 weight, ``[out, in]``.
        hessian: ``[in, in]``, or ``None`` for the identity.
        plan: Settings.
        shared: Codebooks to take as they are instead of fitting some.
        row_weight: What a squared error costs in each row, ``[out]``, or ``None`` for 1.
    """
    metric = None if hessian is None else definite(hessian.to(matrix.device), plan.damping)[0].float()
    scale, column = scales_of(matrix, plan.column_norm)
    emphasis = emphasis_of(row_weight, len(matrix), plan.damping, matrix.device)
    # with each row times its emphasis the weighted error is the plain one, here and in all that follows
    heavy = matrix if row_weight is None else matrix * emphasis[:, None]
    if metric is not None:
        importance = metric.diagonal()
        outlying = importance
    else:
        importance = torch.ones(matrix.shape[1], device=matrix.device)
        outlying = heavy.square().sum(0) if plan.outlier_share else importance
    main, outliers = _columns(outlying, len(matrix), plan, shared)
    current = Solution(main, outliers, scale, column, matrix.shape[1], emphasis)
    _fit(current, matrix, importance, plan, fixed=bool(shared))
    target = heavy.T if metric is None else heavy.T.contiguous()
    best, best_error = current, float("inf")
    for _ in range(_ROUNDS):
        _code(current, matrix, metric if plan.second_order else None)
        _refit(current, target, metric, fixed=bool(shared))
        error = current.error(target, metric)
        if not error < best_error:
            break
        best, best_error = current.snapshot(), error
    if not shared:
        for part in best.parts:
            part.compact()
    elif best.main:
        best.main[0].codebooks = list(shared)  # the very tensors, so that they are stored once
    return best


def _columns(
    outlying: Tensor, rows: int, plan: Plan, shared: Sequence[Tensor]
) -> tuple[list[Columns], Columns | None]:
    """Who shares codebooks with whom; every part in the order of the columns."""
    width, device = len(outlying), outlying.device
    count = min(round(plan.outlier_share * width), width - 1)
    outlier = torch.zeros(width, dtype=torch.bool, device=device)
    outlier[outlying.sort(descending=True, stable=True).indices[:count]] = True
    inner = (~outlier).nonzero()[:, 0]
    groups = min(plan.num_groups, len(inner))
    group = torch.arange(len(inner), device=device) * groups // len(inner)  # as decode computes it
    length = shared[0].shape[1] if shared else min(plan.vector_length, rows)
    main = [Columns(inner[group == g], length, list(shared)) for g in range(groups)]
    if count == 0:
        return main, None
    return main, Columns(outlier.nonzero()[:, 0], min(plan.outlier_vector_length, rows))


def _fit(current: Solution, matrix: Tensor, importance: Tensor, plan: Plan, fixed: bool) -> None:
    row, column = current.scale.float(), current.column

    def values(rows: Tensor, columns: Tensor) -> Tensor:
        return over(over(matrix[rows, columns], column[columns]), row[rows])

    cost = importance * current.column.square()
    cost = cost / cost.max().clamp_min(1e-38)
    weights = row_weights(current.row)
    for part in current.parts:
        sizes = (plan.outlier_codebook_size,) if part is current.outliers else plan.sizes
        if not fixed or part is current.outliers:
            part.fit(values, weights, cost, sizes, iterations=plan.iterations, seed=plan.seed)


def _code(current: Solution, matrix: Tensor, metric: Tensor | None) -> None:
    """Choose the codes of every column, with error feedback where there is a metric."""
    row, column, weights = current.scale.float(), current.column, row_weights(current.row)
    for part in current.parts:
        part.codes = part.blank_codes(len(matrix))
    if metric is None:
        for part in current.parts:
            for some in part.slices(len(matrix)):
                index = part.index[some]
                values = over(over(matrix.T[index], column[index, None]), row)
                for stage, chosen in zip(part.codes, part.code(values, weights)[0], strict=True):
                    stage[some] = chosen
        return
    place = {int(j): (part, at) for part in current.parts for at, j in enumerate(part.index.tolist())}

    def quantise(j: int, values: Tensor) -> Tensor:
        part, at = place[j]
        codes, decoded = part.code(over(over(values, column[j]), row)[None], weights)
        for stage, chosen in zip(part.codes, codes, strict=True):
            stage[at] = chosen[0]
        return decoded[0] * row * column[j]

    error_feedback(matrix, metric, quantise, damping=0.0)  # the metric is damped already


def _refit(current: Solution, target: Tensor, metric: Tensor | None, fixed: bool) -> None:
    """Move codebooks and scale to where the error is least, if that outlives rounding to 16 bits."""
    error = current.error(target, metric)
    row, column = current.row, current.column
    if not fixed:
        kept = [list(part.codebooks) for part in current.parts]
        books = update_codebooks(current.parts, target, row, column, metric)
        for part, updated in zip(current.parts, books, strict=True):
            part.codebooks = [to_half(book) for book in updated]
        after = current.error(target, metric)
        if after < error:
            error = after
        else:
            for part, before in zip(current.parts, kept, strict=True):
                part.codebooks = before
    before_scale = current.scale
    factor = update_scale(current.parts, target, row, column, metric)
    current.scale = to_half(before_scale.float() * factor)
    if not current.error(target, metric) < error:
        current.scale = before_scale
