"""Directions in which two sets of vectors differ, and weights that no longer put anything out along them.

differences of pairs [n, d] -> SVD -> V [d, k];   W -> W - V V^T W,   b -> b - V V^T b

Reference: Yang et al., "Nullu: Mitigating Object Hallucinations in Large Vision-Language Models via HalluSpace
Projection", CVPR 2025, https://arxiv.org/abs/2412.13817, sections 3.2 and 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def contrast_directions(differences: Tensor, rank: int) -> tuple[Tensor, float]:
    """The directions along which differences are largest, means included.

    Args:
        differences: One a row, ``[n, d]``.
        rank: How many directions.

    Returns:
        Orthonormal columns ``[d, rank]``, float64, and the share of the differences' energy that they hold.

    Raises:
        ValueError: If there are fewer differences or dimensions than directions, or nothing differs.
    """
    count, width = differences.shape
    if not 1 <= rank <= min(count, width):
        raise ValueError(f"rank must be in [1, {min(count, width)}], of {count} differences, got {rank}")
    _, values, right = torch.linalg.svd(differences.double(), full_matrices=False)
    energy = values.square()
    if not float(energy[rank - 1]) > 1e-12 * max(float(energy[0]), 1e-300):
        raise ValueError(f"differences have fewer than {rank} directions: the two sets are too much alike")
    return right[:rank].T.contiguous(), float(energy[:rank].sum() / energy.sum())


def project_out(weight: Tensor, directions: Tensor, *, outputs: int = 0) -> Tensor:
    """A weight or bias whose outputs have no component along some directions; all others stay.

    Args:
        weight: With outputs along dimension ``outputs``.
        directions: Orthonormal columns, ``[d, k]``.
        outputs: 0 for ``nn.Linear`` and biases, 1 for transformers' ``Conv1D``.

    Raises:
        ValueError: If the weight has another number of outputs.
    """
    if weight.shape[outputs] != len(directions):
        raise ValueError(
            f"directions have {len(directions)} dimensions, the weight puts out {weight.shape[outputs]}"
        )
    turned = weight.double().movedim(outputs, 0)
    basis = directions.to(turned.device)
    projected: Tensor = turned - torch.tensordot(basis, torch.tensordot(basis.T, turned, 1), 1)
    return projected.movedim(0, outputs).to(weight.dtype).contiguous()
