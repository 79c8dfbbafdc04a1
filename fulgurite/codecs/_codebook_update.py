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

from collections.abc import Sequence

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

    def pull(error: Tensor) -> list[Tensor]:
        weighted = (error if hessian is None else hessian @ error) * row
        weighted *= column[:, None]
        return [book for part in parts for book in part.adjoint(weighted[part.index])]

    def push(books: Sequence[Tensor]) -> Tensor:
        left = iter(books)
        return decode_parts(parts, [[next(left) for _ in part.codebooks] for part in parts], row, column)

    diagonal = torch.ones(len(target), device=target.device) if hessian is None else hessian.diagonal()
    energy = row.square() * (column.square() * diagonal)[:, None]
    mass = [book for part in parts for book in part.adjoint(energy[part.index])]
    solution = [book.double() for part in parts for book in part.codebooks]
    residual = pull(target - push(solution))
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


def update_scale(target: Tensor, decoded: Tensor, hessian: Tensor | None) -> Tensor:
    """Factor for each row of the weight (column of ``decoded``) with the least weighted error, ``[out]``."""
    weighted = decoded if hessian is None else hessian @ decoded
    energy = (decoded * weighted).sum(0)
    factor = (target * weighted).sum(0) / energy
    return torch.where(energy > 0, factor, 1)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(left, right, strict=True))
