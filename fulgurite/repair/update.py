r"""The update of a coded weight that brings its outputs nearest to the reference's, in what may be changed.

    moment of what is to be kept -> eigenvectors -> N, those with little of its energy
    W, W_hat, moments -> G = W E[x y^T] - W_hat E[y y^T] -> Delta = G N (N^T E[y y^T] N + lam I)^-1 N^T

``x`` are the layer's inputs in the reference, ``y`` those in the compressed network, where all layers before err too.

Reference: Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025,
https://arxiv.org/abs/2410.02355, equation 14, ``Delta = R K1^T P (K1 K1^T P + lam I)^-1``, which is this formula with
``P = N N^T``.
Differs from the paper: the residual ``R`` is that of coding a layer, not of a fact to be edited; the null space ends at
a share of the energy and not at an absolute eigenvalue, which means another thing in each layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fulgurite.calibration.paired import PairedMoments


@dataclass(frozen=True)
class Update:
    """What to add to a coded weight.

    Args:
        delta: ``[out, in]``, float64.
        bias: What to add to the bias, ``[out]``; ``None`` where the layer has none to be changed.
        null_share: Dimensions in which the weight may change over all of them, 0 to 1.
        error_before: Squared error of the layer's outputs over their energy, as coded.
        error_after: The same with the update.
    """

    delta: Tensor
    bias: Tensor | None
    null_share: float
    error_before: float
    error_after: float


def too_few_rows(weight: str, width: int, count: int) -> str | None:
    """What is wrong where fewer inputs were seen than the layer has dimensions; ``None`` where nothing is."""
    if count >= width:
        return None
    return (
        f"{weight}: expected at least {width:,} calibration rows for {width:,} inputs, found {count:,}; "
        f"give {math.ceil(width / max(1, count))} times as many"
    )


def null_space(moment: Tensor, keep: float) -> Tensor:
    """An orthonormal basis of what is left beside the directions that hold a share of the energy.

    Args:
        moment: Second moment of the inputs whose outputs are to stay, ``[in, in]``.
        keep: Share of their energy that the update must not touch, 0 to 1; 0 leaves all directions free.

    Returns:
        ``[in, p]``; ``p`` may be 0.

    Raises:
        ValueError: If ``keep`` is out of range.
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep must be in [0, 1], got {keep}")
    size = len(moment)
    if keep == 0:
        return torch.eye(size, dtype=torch.float64, device=moment.device)
    values, vectors = torch.linalg.eigh(moment.double())
    held = values.clamp_min(0).flip(0).cumsum(0)
    # the fewest directions, the largest first, that hold the share; rounding must not ask for one more
    needed = int((held < keep * (1 - 1e-12) * held[-1]).sum()) + 1 if held[-1] > 0 else 0
    free: Tensor = vectors[:, : size - min(needed, size)]
    return free


def solve(
    weight: Tensor,
    coded: Tensor,
    moments: PairedMoments,
    *,
    bias: tuple[Tensor, Tensor] | None = None,
    basis: Tensor | None = None,
    ridge: float = 0.01,
    own_inputs: bool = False,
) -> Update:
    """The update in closed form.

    Args:
        weight: The reference's, ``[out, in]``.
        coded: As decoded, ``[out, in]``.
        moments: Of the layer's inputs.
        bias: The reference's bias and the coded one, ``[out]`` each, where it may change.
        basis: Of ``null_space``; all directions where there is none.
        ridge: ``lam`` as a share of the mean diagonal of ``E[y y^T]``.
        own_inputs: Take what the reference's weight makes of ``y`` for the goal, not of ``x``: errors of layers
            before are left to these.

    Raises:
        ValueError: If ``ridge`` is negative.
    """
    if ridge < 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    known, found = weight.double(), coded.double()
    if own_inputs:
        moments = PairedMoments(
            moments.own, moments.own, moments.own, moments.own_mean, moments.own_mean, moments.count
        )
    used = moments if bias is None else moments.centred()
    gap = known @ used.cross - found @ used.own
    free = (
        torch.eye(used.own.shape[0], dtype=torch.float64, device=known.device)
        if basis is None
        else basis.to(known.device)
    )
    delta = torch.zeros_like(found)
    if free.shape[1]:
        inner = free.T @ used.own @ free
        mean = used.own.diagonal().mean().clamp_min(1e-300)
        inner.diagonal().add_(max(ridge, 1e-10) * mean)
        delta = torch.linalg.solve(inner, free.T @ gap.T).T @ free.T
    before = output_error(known, found, moments, bias)
    added = None
    if bias is not None:
        wanted = known @ moments.reference_mean + bias[0].double()
        added = wanted - (found + delta) @ moments.own_mean - bias[1].double()
        bias = (bias[0], bias[1].double() + added)
    after = output_error(known, found + delta, moments, bias)
    return Update(delta, added, free.shape[1] / len(free), before, after)


def output_error(
    weight: Tensor, coded: Tensor, moments: PairedMoments, bias: tuple[Tensor, Tensor] | None = None
) -> float:
    """Mean squared difference of a layer's outputs over their energy.

    ``E|W x + b - W_hat y - b_hat|^2 / E|W x + b|^2``; without biases the energy is that of ``W x``.

    Args:
        weight: The reference's, ``[out, in]``.
        coded: The other one.
        moments: Of their inputs.
        bias: Of both; none where they are alike and small.
    """
    known, found = weight.double(), coded.double()
    gap = (
        ((known @ moments.reference) * known).sum()
        - 2 * ((known @ moments.cross) * found).sum()
        + ((found @ moments.own) * found).sum()
    )
    energy = ((known @ moments.reference) * known).sum()
    if bias is not None:
        one, other = (part.double() for part in bias)
        mean, other_mean = known @ moments.reference_mean, found @ moments.own_mean
        gap = gap + 2 * ((mean - other_mean) * (one - other)).sum() + (one - other).square().sum()
        energy = energy + 2 * (mean * one).sum() + one.square().sum()
    return max(0.0, float(gap)) / float(energy) if energy > 0 else max(0.0, float(gap))
