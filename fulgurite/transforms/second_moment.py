"""Coordinates in which the inputs of a layer have the second moment of white noise: all errors cost alike there.

second moment H -> damp -> root S, S S^T = H;   W S in the place of W
"""

from __future__ import annotations

import torch
from torch import Tensor


def damp(hessian: Tensor, damping: float) -> Tensor:
    """``H + damping * mean(diag H) * I`` in float64; the identity where the diagonal's mean is not positive.

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
    if not mean > 0:  # no inputs at all, or no second moment: nothing that any damping could repair
        return matrix.zero_().fill_diagonal_(1)
    matrix.diagonal().add_(damping * mean)
    return matrix


def root_of(hessian: Tensor) -> Tensor:
    """``S`` with ``S S^T = H``, float64: the Cholesky factor, or the symmetric root of a singular matrix."""
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(hessian.double())
    if int(info) == 0:
        return lower
    values, vectors = torch.linalg.eigh(hessian.double())
    root: Tensor = vectors * values.clamp_min(0).sqrt()
    return root
