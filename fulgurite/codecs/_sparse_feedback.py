"""Pruning by what it costs a layer's outputs (SparseGPT), survivors made the best they can be.

    columns in blocks -> saliency w^2 / [H^-1]_jj -> mask; what was lost -> the columns that follow -> next block
    mask -> least squares over the survivors of each row -> values (-> codes, each column's error fed onwards)

Reference: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023,
https://arxiv.org/abs/2301.00774, algorithm 1; the saliency and the update are those of the optimal brain surgeon
(Hassibi and Stork, 1992). Differs from the paper: the saliency of a block's columns is told from all columns not yet
passed, where the paper's factor has those before a column fixed already; columns go from the largest second moment to
the smallest; once the mask is known the survivors of a row are the least-squares solution over all of them, by
conjugate gradients, where the feedback has only the columns that follow make up for a loss.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fulgurite.codecs._hessian import BLOCK, damped_inverse_cholesky, definite, error_feedback
from fulgurite.codecs._sparse_grid import codes_of, units_of
from fulgurite.codecs.pattern import Pattern

_ROUNDS = 200  # of conjugate gradients; some tens are enough unless the hessian is all but singular
_SMALL = 1e-7  # of the gradient at zero
_ROWS = 1 << 22  # weights solved at a time, in float64
_LEAST_ROW = 0.01  # of the mean row weight: no row is for nothing


def choose_in_turn(
    matrix: Tensor,
    hessian: Tensor,
    row_weight: Tensor | None,
    pattern: Pattern,
    share: float,
    damping: float,
) -> Tensor:
    """Which weights stay.

    Args:
        matrix: ``[out, in]``; not modified.
        hessian: ``[in, in]``.
        row_weight: What an error in each row costs, ``[out]``.
        pattern: Of the zeros.
        share: Of zeros, where the pattern does not say it; reached within each block of columns.
        damping: See ``damp``.

    Returns:
        Boolean ``[out, in]``.
    """
    columns, span = _order(hessian, pattern)
    factor = damped_inverse_cholesky(hessian[columns][:, columns], damping).float()
    work = matrix[:, columns].T.contiguous()  # [in, out]: one column of the weight is one row in memory
    dropped = torch.zeros_like(work, dtype=torch.bool)
    rows = torch.ones(len(matrix), device=matrix.device)
    if row_weight is not None and row_weight.sum() > 0:
        rows = row_weight.float().clamp_min(_LEAST_ROW * float(row_weight.float().mean()))
    done = 0
    for start, stop in _spans(columns, span, pattern):
        own, corner, gone = work[start:stop], factor[start:stop, start:stop], dropped[start:stop]
        step = pattern.columns if pattern.keep else stop - start
        errors = torch.zeros_like(own)
        for j in range(stop - start):
            if j % step == 0:
                part = slice(j, j + step)
                costs = corner[part, part].square().sum(0)  # the diagonal of the inverse over what is left
                worth = (own[part].square() / costs[:, None]).T * rows[:, None]
                aim = (share * stop * len(matrix) - done) / own.numel()  # what earlier blocks left over
                gone[part] = pattern.drop(worth, min(1.0, max(0.0, aim)), inputs=columns[start:stop][part]).T
            errors[j] = own[j] * gone[j] / corner[j, j]
            own[j:] -= corner[j, j:, None] * errors[j]
        done += int(gone.sum())
        work[stop:] -= factor[start:stop, stop:].T @ errors
    kept = torch.empty_like(matrix, dtype=torch.bool)
    kept[:, columns] = ~dropped.T
    return kept


def _order(hessian: Tensor, pattern: Pattern) -> tuple[Tensor, int]:
    """Columns from the largest second moment to the smallest, blocks together; and how many go at once."""
    groups = torch.split(torch.arange(len(hessian), device=hessian.device), pattern.columns)
    energy = torch.stack([hessian.diagonal()[group].mean() for group in groups])
    order = energy.sort(descending=True, stable=True).indices.tolist()
    span = max(1, BLOCK // pattern.columns) * pattern.columns
    return torch.cat([groups[number] for number in order]), span


def _spans(columns: Tensor, span: int, pattern: Pattern) -> list[tuple[int, int]]:
    """Where blocks of about ``span`` columns begin and end, so that no block of the pattern is cut."""
    names = (columns // pattern.columns).tolist()
    ends = [j for j in range(1, len(names)) if names[j] != names[j - 1]] + [len(names)]
    spans, start = [], 0
    for end, following in pairwise(ends):
        if following - start > span:
            spans.append((start, end))
            start = end
    return [*spans, (start, len(names))]


def solve_survivors(matrix: Tensor, hessian: Tensor, kept: Tensor, damping: float) -> Tensor:
    """The values on the mask with the least ``(F - W) H (F - W)^T``, zero elsewhere; float32 ``[out, in]``.

    Args:
        matrix: ``W``, ``[out, in]``.
        hessian: ``H``, ``[in, in]``.
        kept: The mask.
        damping: See ``damp``.
    """
    second, _ = definite(hessian, damping)
    count = max(1, _ROWS // matrix.shape[1])
    parts = zip(torch.split(matrix.double(), count), torch.split(kept, count), strict=True)
    return torch.cat([_solve(rows, second, mask.double()) for rows, mask in parts]).float()


def _solve(target: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """Conjugate gradients for all rows at once, each with its own step; preconditioned by the diagonal."""
    wanted = (target @ hessian) * mask
    scaling = mask / hessian.diagonal()
    values = target * mask
    left = wanted - (values @ hessian) * mask
    limit = _SMALL**2 * (wanted.square() * scaling).sum(1)
    direction = toward = left * scaling
    size = (left * toward).sum(1)
    for _ in range(_ROUNDS):
        active = size > limit
        if not active.any():
            break
        change = (direction @ hessian) * mask
        step = torch.where(active, size / (direction * change).sum(1).clamp_min(1e-300), 0.0)[:, None]
        values = values + step * direction
        left = left - step * change
        toward = left * scaling
        before, size = size, (left * toward).sum(1)
        direction = toward + (size / before.clamp_min(1e-300))[:, None] * direction
    return values


def quantise_survivors(
    values: Tensor,
    hessian: Tensor,
    kept: Tensor,
    scale: Tensor,
    floor: Tensor,
    bits: int,
    damping: float,
) -> Tensor:
    """Codes ``[out, in]`` of the survivors, each column's error made up for by those that follow."""
    codes = torch.zeros(values.shape[::-1], dtype=torch.uint8, device=values.device)
    mask = kept.T.contiguous()

    def quantise(j: int, column: Tensor) -> Tensor:
        codes[j] = codes_of(column[:, None], scale, floor, bits)[:, 0]
        return units_of(codes[j], floor, bits) * scale.float() * mask[j]

    error_feedback(values, hessian, quantise, damping)
    return codes.T.contiguous()
