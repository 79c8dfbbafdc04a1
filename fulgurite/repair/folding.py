r"""A wanted weight, as far as an encoded one can be moved to it without new codes.

    encoded -> expanded -> continuous parts p: least squares by conjugate gradients -> compacted
                           min tr((W_hat(p) - T) H (W_hat(p) - T)^T), with W_hat by its derivative in p

No bytes are added: scales, zeros and codewords are there anyway. Where these add up, as steps and zeros do, it is a
linear problem and this its solution; where they are multiplied, as scales and codewords are, a second round goes on
from the first. It is what a refinement finds by many steps, for one layer's outputs.

Reference: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", J. Res. NBS 49(6), 1952.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fulgurite.codecs import CODECS, Encoded, as_matrix, decode

_STEPS = 60  # of conjugate gradients; scales of a row depend on each other only through correlated inputs
_TOLERANCE = 1e-8  # of the squared gradient at the start


def fold(
    encoded: Encoded,
    target: Tensor,
    hessian: Tensor,
    *,
    fixed: Collection[str] = (),
    rounds: int = 2,
) -> tuple[Encoded, bool]:
    """Bring an encoded weight nearer to a target by its continuous parts alone.

    Args:
        encoded: The weight.
        target: ``[out, in]``.
        hessian: What errors cost, ``[in, in]``, semidefinite.
        fixed: Parts to leave as they are, such as a codebook that other weights share.
        rounds: Times that the parts are fitted.

    Returns:
        The weight, and whether it came nearer; it is the one given where rounding of the parts undid all gain.
    """
    codec = CODECS[encoded.codec]
    wanted, metric = target.float(), hessian.float()
    before = _distance(encoded, wanted, metric)
    # in float32 whatever the weight's dtype is: rounding would not be affine
    expanded = replace(codec.expanded(encoded), dtype="float32")
    parts = {
        name: expanded.tensors[name].detach().float()
        for name in codec.continuous
        if name in expanded.tensors and name not in fixed
    }
    if not parts:
        return encoded, False
    steepest = 0.0
    for _ in range(rounds):
        parts, steepest = _fitted(expanded, parts, wanted, metric, steepest)
    found = codec.compacted(encoded, parts)
    return (found, True) if _distance(found, wanted, metric) < before else (encoded, False)


def _fitted(
    encoded: Encoded, parts: Mapping[str, Tensor], target: Tensor, hessian: Tensor, steepest: float
) -> tuple[dict[str, Tensor], float]:
    """All parts at the least distance from the target, by the derivative of the values in them where they are now.

    With it comes the largest squared gradient that any round has begun with: a round that begins at the least is over.
    """
    names = list(parts)
    sizes = [parts[name].numel() for name in names]

    def split(flat: Tensor) -> dict[str, Tensor]:
        pieces = torch.split(flat, sizes)
        return {name: piece.reshape(parts[name].shape) for name, piece in zip(names, pieces, strict=True)}

    with torch.enable_grad():
        here = torch.cat([parts[name].flatten() for name in names]).requires_grad_()
        values = as_float(decode(encoded.with_tensors(**split(here))))
        seed = torch.zeros_like(values, requires_grad=True)
        # linear in the seed: its own derivative is the product with the jacobian that moves values forwards
        (back,) = torch.autograd.grad(values, here, seed, create_graph=True)

    def forwards(direction: Tensor) -> Tensor:
        (moved,) = torch.autograd.grad(back, seed, direction, retain_graph=True)
        return moved

    def backwards(error: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(values, here, error @ hessian, retain_graph=True)
        return pulled

    base = values.detach()
    moved = torch.zeros_like(here)
    residual = backwards(target - base)
    direction, energy = residual.clone(), residual.square().sum()
    steepest = max(steepest, float(energy))
    least = _TOLERANCE * steepest
    for _ in range(_STEPS):
        if not energy > least:
            break
        change = forwards(direction)
        curvature = ((change @ hessian) * change).sum()
        if not curvature > 0:
            break
        step = energy / curvature
        moved = moved + step * direction
        residual = residual - step * backwards(change)
        fresh = residual.square().sum()
        direction = residual + (fresh / energy) * direction
        energy = fresh
    fitted = split((here + moved).detach())
    # products of parts are linear only close by: a step too far is not taken
    nearer = _gap(encoded.with_tensors(**fitted), target, hessian) < _gap(
        encoded.with_tensors(**parts), target, hessian
    )
    return (fitted if nearer else dict(parts)), steepest


def as_float(weight: Tensor) -> Tensor:
    """A decoded weight as float32 ``[out, in]``, differentiable."""
    return (weight.reshape(1, -1) if weight.dim() < 2 else weight.flatten(1)).float()


def _distance(encoded: Encoded, target: Tensor, hessian: Tensor) -> float:
    """Of a weight as it is stored."""
    as_matrix(decode(encoded))  # finite, or an error
    return _gap(encoded, target, hessian)


def _gap(encoded: Encoded, target: Tensor, hessian: Tensor) -> float:
    error = as_float(decode(encoded)).detach() - target
    return float(((error @ hessian) * error).sum(dtype=torch.float64))
