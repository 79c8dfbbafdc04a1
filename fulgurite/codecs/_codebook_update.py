r"""Codebooks and scales that fit best once the codes are chosen.

    codes, hessian -> normal equations of the codebooks -> conjugate gradients -> codebooks
                   \-> projection of each row on its decoded row -> scale

With the codes fixed the weight is linear in the codebooks, so ``tr(E H E^T)`` is quadratic in them; the
matrix of that quadratic form is never built. With the identity as hessian this is Lloyd's mean.
Reference: van Baalen et al., "GPTVQ: The Blessing of Dimensionality for LLM Quantization", 2024,
https://arxiv.org/abs/2402.15319, section 3.3 "codebook update".
Differs from the paper: conjugate gradients, which need no learning rate, not gradient descent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fulgurite.codecs._vptq_columns import Columns

_STEPS = 4  # four more change the error by less than 0.2 % on layers of trained networks


def decode_parts(
    parts: Sequence[Columns], codebooks: Sequence[Sequence[Tensor]], row: Tensor, column: Tensor
) -> Tensor:
    """What the codes of all parts stand for, ``[in, out]``, with row scales and column scales."""
    values = torch.empty(len(column), len(row), device=row.device)
    for part, books in zip(parts, codebooks, strict=True):
        values[part.index] = part.image(books, len(row))
    return values.mul_(row).mul_(column[:, None])


def update_codebooks(
    parts: Sequence[Columns], target: Tensor, row: Tensor, column: Tensor, hessian: Tensor | None
) -> list[list[Tensor]]:
    """Codebooks with less weighted error than those the parts hold, their codes kept.

    Args:
        parts: All columns of the weight, coded.
        target: The weight, ``[in, out]``.
        row: Scale of each row of the weight, ``[out]``.
        column: Scale of each column of the weight, ``[in]``.
        hessian: ``[in, in]`` float32, positive definite, or ``None`` for the identity.

    Returns:
        Float32 codebooks of each part and stage.
    """
    size, full = len(row), slice(None)

    def pull(error: Callable[[Columns, slice], Tensor]) -> list[Tensor]:
        """Sums over the places of each codeword; ``error`` makes that of some columns of a part."""
        sums = []
        for part in parts:
            total = [torch.zeros_like(book, dtype=torch.float64) for book in part.codebooks]
            for some in part.slices(size):
                weighted = (error(part, some) * row).mul_(column[part.index[some], None])
                total = [t + s for t, s in zip(total, part.adjoint(weighted, some), strict=True)]
            sums += total
        return sums

    def push(books: Sequence[Tensor], minus: Tensor | None = None) -> Callable[[Columns, slice], Tensor]:
        """What the books stand for, or what they leave over of ``minus``; through the hessian if there is one."""
        left = iter(books)
        nested = [[next(left) for _ in part.codebooks] for part in parts]
        of = {id(part): own for part, own in zip(parts, nested, strict=True)}

        def some_of(part: Columns, some: slice) -> Tensor:
            image = part.image(of[id(part)], size, some) * row * column[part.index[some], None]
            return image if minus is None else minus[part.index[some]] - image

        if hessian is None:
            return some_of
        whole = torch.empty(len(column), size, device=row.device)
        for part in parts:
            whole[part.index] = some_of(part, full)
        whole = hessian @ whole
        return lambda part, some: whole[part.index[some]]

    diagonal = torch.ones(len(target), device=target.device) if hessian is None else hessian.diagonal()
    cost = column * diagonal
    mass = pull(lambda part, some: row * cost[part.index[some], None])
    solution = [book.double() for part in parts for book in part.codebooks]
    residual = pull(push(solution, minus=target))
    direction = [torch.zeros_like(book) for book in solution]
    power = 0.0
    for _ in range(_STEPS):
        # a codeword's own mass is the diagonal of the normal equations: Jacobi's preconditioner
        scaled = [torch.where(m > 0, r / m.clamp_min(1e-300), 0) for r, m in zip(residual, mass, strict=True)]
        before, power = power, _dot(residual, scaled)
        if not power > 0:
            break
        momentum = power / before if before > 0 else 0.0
        direction = [s + momentum * d for s, d in zip(scaled, direction, strict=True)]
        curved = pull(push(direction))
        curvature = _dot(direction, curved)
        if not curvature > 0:
            break
        step = power / curvature
        solution = [x + step * d for x, d in zip(solution, direction, strict=True)]
        residual = [r - step * c for r, c in zip(residual, curved, strict=True)]
    left = iter(solution)
    return [[next(left).float() for _ in part.codebooks] for part in parts]


def update_scale(
    parts: Sequence[Columns], target: Tensor, row: Tensor, column: Tensor, hessian: Tensor | None
) -> Tensor:
    """Factor for each row of the weight with the least weighted error, ``[out]``; arguments as above."""
    if hessian is not None:
        decoded = decode_parts(parts, [part.codebooks for part in parts], row, column)
        weighted = hessian @ decoded
        energy, share = (decoded * weighted).sum(0), (target * weighted).sum(0)
    else:
        energy, share = torch.zeros(2, len(row), dtype=torch.float64, device=row.device)
        for part in parts:
            for some in part.slices(len(row)):
                decoded = part.image(part.codebooks, len(row), some) * row * column[part.index[some], None]
                share += (target[part.index[some]] * decoded).sum(0)
                energy += decoded.square_().sum(0)
    return torch.where(energy > 0, share / energy, 1).float()


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(left, right, strict=True))
