r"""The product of two weights in a basis that has its singular values in order.

    a [h, m], b [h, n]        a^T b = (T a)^T (U b)        row i of T a and of U b: singular pair i of a^T b

Attention sees the queries' and keys' weights of a head, and the values' and the output's, as their product alone, so
any basis of the ``h`` channels between them is as good. In this one the last rows are what the product needs least:
with inputs of second moment ``S S^T`` on either side, leaving pairs out costs their squared singular values exactly
(Eckart and Young, as in ``codecs._whitened``).

With ``a^T = Q_a R_a``, ``b^T = Q_b R_b`` and ``R_a R_b^T = P s W^T``: ``T = s^(-1/2) W^T R_b`` and
``U = s^(-1/2) P^T R_a``, for which neither factor is inverted.

Reference: the products are those of Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021,
https://transformer-circuits.pub/2021/framework/index.html; whitened truncation as SVD-LLM's,
https://arxiv.org/abs/2403.07378. Differs from the latter: of a product of two weights, not of each weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 1e-12  # of the largest singular value: what is below it is none


@dataclass(frozen=True)
class Basis:
    """Another basis of the channels between two weights; float64.

    Args:
        left: What the first weight is multiplied by, ``[h, h]``; rows of zeros where the product has no such rank.
        right: What the second one is multiplied by, ``[h, h]``.
        values: Singular values of the product, the largest first, ``[h]``.
    """

    left: Tensor
    right: Tensor
    values: Tensor


def principal_basis(left: Tensor, right: Tensor) -> Basis:
    """The basis in which the rows of both weights are the singular vectors of their product.

    Args:
        left: ``[h, m]``, in the coordinates in which errors cost alike.
        right: ``[h, n]``, likewise.

    Raises:
        ValueError: If the two have other numbers of rows, or fewer columns than rows.
    """
    if len(left) != len(right):
        raise ValueError(f"expected two weights with as many rows, got {len(left)} and {len(right)}")
    first, second = (torch.linalg.qr(each.double().T, mode="r").R for each in (left, right))
    if not first.shape == second.shape == (len(left), len(left)):
        raise ValueError(
            f"expected at least {len(left)} columns, as there are rows, got {left.shape[1]} and {right.shape[1]}"
        )
    outer, values, inner = torch.linalg.svd(first @ second.T)
    there = values > _ROUNDING * values[0]
    scale = torch.where(there, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0)
    return Basis(scale[:, None] * (inner @ second), scale[:, None] * (outer.T @ first), values * there)
