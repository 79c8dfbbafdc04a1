"""The nearest matrix of low rank, where errors cost what a hessian and row weights say.

    A = D^(1/2) W S, with S S^T = H        A = U s V^T        W_k = D^(-1/2) U_k U_k^T D^(1/2) W

``W_k`` is the best of rank ``k``: it costs exactly ``s_(k+1)^2 + ... `` (Eckart and Young in the coordinates of
``A``), and since ``U_k U_k^T A = U_k s_k V_k^T`` no inverse of ``S`` is needed: the hessian may be singular.

References: Wang et al., "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model
Compression", ICLR 2025, https://arxiv.org/abs/2403.07378, section 3.1.
Differs from the paper: rows have weights too; a projection in place of ``S^-1``, so that what no calibration input
reaches is kept as well as the chosen outputs allow, and a root of a singular hessian will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fulgurite.transforms import damp, root_of

_SMALLEST = 1e-12  # of the mean row weight: rows that cost nothing are still divided by their root


@dataclass(frozen=True)
class Spectrum:
    """A weight in the coordinates in which all errors cost alike, decomposed; float64.

    Args:
        matrix: The weight, ``[out, in]``.
        left: ``U``, ``[out, n]``.
        values: Singular values, the largest first, ``[n]``.
        scale: Root of the row weights, ``[out]``.
    """

    matrix: Tensor
    left: Tensor
    values: Tensor
    scale: Tensor

    @property
    def energy(self) -> float:
        """What losing the whole weight costs."""
        return float(self.values.square().sum())

    @property
    def rank(self) -> int:
        """Singular values that are not rounding; at least 1."""
        largest = float(self.values[0])
        return max(1, int((self.values > 1e-13 * largest).sum()))

    def lost(self) -> Tensor:
        """Cost of truncation to each rank from 0, ``[n + 1]``."""
        tail = self.values.square().flip(0).cumsum(0).flip(0)
        return torch.cat([tail, tail.new_zeros(1)])

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """``left [out, rank]`` and ``right [rank, in]`` whose product is the truncated weight.

        Each singular value is shared between both, so that a quantiser finds columns and rows of one size.
        """
        some = self.left[:, :rank]
        root = self.values[:rank].clamp_min(1e-150).sqrt()
        left = some / self.scale[:, None] * root
        right = (some * self.scale[:, None]).T @ self.matrix / root[:, None]
        if float(self.values[0]) == 0:  # a weight of zeros: nothing to divide by
            return left.zero_(), right.zero_()
        return left, right


def decompose(
    matrix: Tensor, hessian: Tensor | None, row_weight: Tensor | None, damping: float = 0.0
) -> Spectrum:
    """Decompose a weight in its metric.

    Args:
        matrix: ``[out, in]``.
        hessian: Second moment of the inputs, ``[in, in]``, semidefinite.
        row_weight: ``[out]``, not negative.
        damping: Share of the hessian's mean diagonal that is added to its diagonal.

    Raises:
        ValueError: If ``damping`` is negative or the hessian is not finite.
    """
    wide = matrix.double()
    scale = root_weights(row_weight, len(wide), wide.device)
    turned = wide * scale[:, None]
    if hessian is not None:
        turned = turned @ root_of(damp(hessian, damping))
    left, values, _ = torch.linalg.svd(turned.contiguous(), full_matrices=False)
    return Spectrum(wide, left, values, scale)


def root_weights(row_weight: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """Roots of the row weights, float64 and positive."""
    if row_weight is None:
        return torch.ones(rows, dtype=torch.float64, device=device)
    weights = row_weight.double()
    mean = weights.mean()
    if not mean > 0:
        return torch.ones_like(weights)
    return weights.clamp_min(_SMALLEST * mean).sqrt()


def right_given_left(left: Tensor, matrix: Tensor, scale: Tensor) -> Tensor:
    """The right factor that goes best with a left one, ``[rank, in]``: the same under every hessian.

    Args:
        left: As decoded, ``[out, rank]``.
        matrix: The weight, ``[out, in]``, float64.
        scale: Roots of the row weights, ``[out]``.
    """
    weighted = left.double() * scale[:, None]
    # columns that coding made alike, or zero, leave the choice open: the least of all that fit
    inverse = torch.linalg.pinv(weighted.T @ weighted, rtol=1e-12, hermitian=True)
    solved: Tensor = inverse @ (weighted.T @ (matrix * scale[:, None]))
    return solved
