"""Second-order tools that codecs share: what one column's error costs, and which columns can repair it.

    hessian -> damp -> Cholesky factor of the inverse -> error feedback, column by column

Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, https://arxiv.org/abs/2210.17323, section 3 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 128  # columns between two updates of all that follow (GPTQ, section 3.3)


def damp(hessian: Tensor, damping: float) -> Tensor:
    """``H + damping * mean(diag H) * I`` in float64; the identity for an all-zero hessian.

    An input that is always zero gets the damping alone, so it is coded as a rare input is.

    Args:
        hessian: Symmetric, ``[n, n]``.
        damping: Share of the mean diagonal that is added to the diagonal.

    Raises:
        ValueError: If ``damping`` is negative or the hessian is not finite.
    """
    if damping < 0:
        raise ValueError(f"damping must not be negative, got {damping}")
    if not torch.isfinite(hessian).all():
        raise ValueError("hessian must be finite, got NaN or infinity")
    matrix = hessian.detach().double().clone()
    mean = matrix.diagonal().mean()
    matrix.diagonal().add_(damping * mean if mean > 0 else 1 - matrix.diagonal())
    return matrix


def damped_inverse_cholesky(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """Upper ``U`` with ``U^T U = damp(H, damping)^-1``, in float64.

    Where rounding leaves the matrix indefinite, or inputs repeat each other and ``damping`` is zero, the
    damping grows tenfold until it is not.

    Args:
        hessian: Symmetric, ``[n, n]``.
        damping: See ``damp``.

    Raises:
        ValueError: As ``damp``.

    Example:
        >>> damped_inverse_cholesky(4 * torch.eye(2), damping=0.0).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    while True:
        # with rows and columns reversed the lower factor becomes an upper R with H = R R^T, so that
        # R^-1 is the factor wanted: one Cholesky and no explicit inverse
        lower, info = torch.linalg.cholesky_ex(damp(hessian, damping).flip(0, 1))
        if int(info) == 0:
            break
        damping = max(10 * damping, 1e-8)
    identity = torch.eye(len(hessian), dtype=torch.float64, device=hessian.device)
    factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
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
    order = hessian.diagonal().sort(descending=True, stable=True).indices
    factor = damped_inverse_cholesky(hessian[order][:, order], damping).float()
    work = matrix[:, order].T.contiguous()  # [in, out]: one column of the weight is one row in memory
    decoded = torch.empty_like(matrix)
    columns = order.tolist()
    for start in range(0, len(columns), block):
        stop = min(start + block, len(columns))
        errors = torch.empty_like(work[start:stop])
        for j in range(start, stop):
            # the errors of the block so far, gathered now: the same sum as an update of all that follow
            # after each column, with one write where that has up to 128
            corrected = work[j] - factor[start:j, j] @ errors[: j - start]
            column = quantise(columns[j], corrected)
            decoded[:, columns[j]] = column
            errors[j - start] = (corrected - column) / factor[j, j]
        work[stop:] -= factor[start:stop, stop:].T @ errors
    return decoded


def weighted_error(error: Tensor, hessian: Tensor | None) -> float:
    """``tr(E H E^T)``, the mean squared error of the layer's outputs; ``|E|^2`` without a hessian."""
    if hessian is None:
        return float(error.double().square().sum())
    return float(((error @ hessian.to(error)).double() * error).sum())
