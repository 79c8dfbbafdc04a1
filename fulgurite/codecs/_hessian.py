"""Second-order tools that codecs share: what one column's error costs, and which columns can repair it.

    hessian -> damp -> Cholesky factor of the inverse -> error feedback, column by column or block by block

References: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, https://arxiv.org/abs/2210.17323, section 3 and algorithm 1; Tseng et al., "QuIP#",
ICML 2024, https://arxiv.org/abs/2402.04396, section 4.1, for blocks of columns.
Differs from both: the columns that matter most go first; a block is told what its own error costs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fulgurite.transforms import damp

BLOCK = 128  # columns between two updates of all that follow (GPTQ, section 3.3)
_CHUNK = 1 << 20  # weights at a time

QuantiseBlock = Callable[[int, Tensor, Tensor], Tensor]


def definite(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """``damp(H, damping)`` with as much damping as makes it positive definite, and its factor.

    Where rounding leaves the matrix indefinite, or inputs repeat each other and ``damping`` is zero, the
    damping grows tenfold until it is not.

    Args:
        hessian: Symmetric, ``[n, n]``.
        damping: See ``damp``.

    Returns:
        The matrix and an upper ``R`` with ``R R^T`` equal to it, both float64.

    Raises:
        ValueError: As ``damp``.
    """
    while True:
        # with rows and columns reversed the lower factor becomes an upper one
        matrix = damp(hessian, damping)
        lower, info = torch.linalg.cholesky_ex(matrix.flip(0, 1))
        if int(info) == 0:
            return matrix, lower.flip(0, 1)
        damping = max(10 * damping, 1e-8)


def damped_inverse_cholesky(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """Upper ``U`` with ``U^T U = damp(H, damping)^-1``, in float64; damped more where ``definite`` is.

    Args:
        hessian: Symmetric, ``[n, n]``.
        damping: See ``damp``.

    Raises:
        ValueError: As ``damp``.

    Example:
        >>> damped_inverse_cholesky(4 * torch.eye(2), damping=0.0).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    _, root = definite(hessian, damping)  # H = R R^T: R^-1 is the factor wanted, with no explicit inverse
    identity = torch.eye(len(root), dtype=torch.float64, device=root.device)
    factor: Tensor = torch.linalg.solve_triangular(root, identity, upper=True)
    return factor


def error_feedback(
    matrix: Tensor,
    hessian: Tensor,
    quantise: Callable[[int, Tensor], Tensor],
    damping: float = 0.01,
    block: int = BLOCK,
) -> Tensor:
    """Code column after column; the columns not yet coded make up for each column's error.

    Columns go from the largest to the smallest second moment: the order is the encoder's own business,
    so it costs no bytes.

    Args:
        matrix: Float32 weight, ``[out, in]``; not modified.
        hessian: Second moment of the inputs, ``[in, in]``.
        quantise: Called once per column with its index and its corrected values ``[out]``; returns what
            the decoder will see.
        damping: See ``damped_inverse_cholesky``.
        block: Columns between two updates of all columns that follow; changes the rounding only.

    Returns:
        The decoded matrix, ``[out, in]``.
    """
    return block_feedback(
        matrix, hessian, lambda j, values, _: quantise(j, values[:, 0])[:, None], 1, damping, block
    )


def block_feedback(
    matrix: Tensor,
    hessian: Tensor,
    quantise: QuantiseBlock,
    size: int,
    damping: float = 0.01,
    block: int = BLOCK,
) -> Tensor:
    """Code blocks of ``size`` consecutive columns; the columns not yet coded make up for each block's error.

    What an error ``e`` of a row in a block costs, once the columns that follow have made up for it as
    well as they can, is ``|R e|^2`` with ``R`` the inverse transpose of the block's corner of the factor.

    Args:
        matrix: Float32 weight, ``[out, in]``, ``in`` a multiple of ``size``; not modified.
        hessian: Second moment of the inputs, ``[in, in]``.
        quantise: Called once per block with its number in the weight, its corrected values ``[out, size]``
            and ``R``, lower triangular float64 ``[size, size]``; returns what the decoder will see.
        size: Columns of a block.
        damping: See ``damped_inverse_cholesky``.
        block: Columns between two updates of all columns that follow; changes the rounding only.

    Returns:
        The decoded matrix, ``[out, in]``.
    """
    energy = hessian.diagonal().reshape(-1, size).sum(1)
    order = energy.sort(descending=True, stable=True).indices
    columns = (order[:, None] * size + torch.arange(size, device=order.device)).flatten()
    factor = damped_inverse_cholesky(hessian[columns][:, columns], damping)
    corners = torch.stack([factor[j : j + size, j : j + size] for j in range(0, len(factor), size)])
    identity = torch.eye(size, dtype=torch.float64, device=factor.device)
    roots = torch.linalg.solve_triangular(corners, identity, upper=True).mT.contiguous()
    factor = factor.float()
    work = matrix[:, columns].T.contiguous()  # [in, out]: one column of the weight is one row in memory
    decoded = torch.empty_like(matrix)
    numbers = order.tolist()
    span = max(1, block // size) * size
    for start in range(0, len(columns), span):
        stop = min(start + span, len(columns))
        errors = torch.empty_like(work[start:stop])
        for j in range(start, stop, size):
            number, root, own = numbers[j // size], roots[j // size], slice(j, j + size)
            # the errors of the span so far, gathered now: the same sum as an update of all that follow
            # after each block, with one write where that has up to 128
            corrected = work[own] - factor[start:j, own].T @ errors[: j - start]
            found = quantise(number, corrected.T.contiguous(), root)
            decoded[:, number * size : (number + 1) * size] = found
            errors[j - start : j - start + size] = root.float() @ (corrected - found.T)
        work[stop:] -= factor[start:stop, stop:].T @ errors
    return decoded


def input_costs(hessian: Tensor) -> Tensor:
    """What an error in each column costs by itself, the hessian's diagonal, float32 ``[in]``; ones if all zero.

    Raises:
        ValueError: If the diagonal is not finite.
    """
    costs = hessian.detach().diagonal().float()
    if not torch.isfinite(costs).all():
        raise ValueError("hessian must be finite, got NaN or infinity")
    costs = costs.clamp_min(0)
    return costs if costs.any() else torch.ones_like(costs)


def weighted_error(error: Tensor, hessian: Tensor | None) -> float:
    """``tr(E H E^T)``, the mean squared error of the layer's outputs; ``|E|^2`` without a hessian."""
    if hessian is None:
        return float(error.double().square().sum())
    hessian = hessian.to(error)
    some = torch.split(error, max(1, _CHUNK // error.shape[1]))  # bounds the copies in float64
    return sum(float(((rows @ hessian).double() * rows).sum()) for rows in some)
