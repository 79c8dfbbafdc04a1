r"""Points and coefficients of hyper-compression under a hessian.

    block of columns -> best point or coefficients under what its error costs -> error -> the blocks that follow

Within a block the cost of an error ``e`` is ``|R e|^2``, as ``block_feedback`` says: a point is the nearest after
a map with ``R``; coefficients are rounded one after another, the last first, each to where the ones still free
can make up for it best.

Reference: Babai, "On Lovasz' lattice reduction and the nearest lattice point problem", Combinatorica 1986, the
nearest-plane algorithm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fulgurite.codecs._hessian import block_feedback
from fulgurite.codecs._trajectories import classes_of, nearest, round_to


def place_in_turn(
    unit: Tensor, hessian: Tensor, points: Tensor, extents: Tensor, damping: float, any_class: bool
) -> tuple[Tensor, Tensor]:
    """Class and step of each block of ``K`` weights, the blocks of a row one after another.

    Args:
        unit: The weight over its scales, ``[out, in]``, ``in`` a multiple of ``K``.
        hessian: ``[in, in]``.
        points: Of the winding, ``[num_points, K]``.
        extents: Half the side of each class's cube, ``[classes]``.
        damping: Share of the hessian's mean diagonal that is added to it.
        any_class: Take the best point of all classes, not of the smallest cube that holds the weights: less
            error, but codes that an entropy coder can do little with.

    Returns:
        uint8 and int32, ``[out * in / K]`` each, in row-major order.
    """
    words = (extents.float()[:, None, None] * points).flatten(0, 1)
    count, dimension = points.shape
    names = torch.empty(unit.shape[1] // dimension, len(unit), dtype=torch.int32, device=unit.device)

    def quantise(number: int, values: Tensor, root: Tensor) -> Tensor:
        own = (
            root / root.norm()
        ).float()  # the unit of the hessian is anyone's: float32 squares must hold it
        if any_class:
            chosen = nearest(values @ own.T, words @ own.T)
        else:
            classes = classes_of(values.abs().amax(1), extents)
            chosen = nearest(values / extents.float()[classes, None] @ own.T, points @ own.T)
            chosen = classes * count + chosen
        names[number] = chosen
        return words[chosen]

    block_feedback(unit, hessian, quantise, dimension, damping)
    flat = names.T.flatten()
    return (flat // count).to(torch.uint8), flat % count


def round_in_turn(
    unit: Tensor, hessian: Tensor, curves: Tensor, steps: Tensor, top: int, damping: float
) -> Tensor:
    """Levels of the coefficients of each block, the blocks of a row one after another.

    Args:
        unit: The weight over its scales, ``[out, in]``, ``in`` a multiple of the block.
        hessian: ``[in, in]``.
        curves: Orthonormal basis ``B``, ``[block, degree + 1]``.
        steps: Width of a rounding step of each coefficient, fp16 ``[degree + 1]``.
        top: Highest level.
        damping: As above.

    Returns:
        int8 levels ``-top .. top``, ``[out * in / block, degree + 1]``, in row-major order.
    """
    size, number = curves.shape
    shape = (unit.shape[1] // size, number, len(unit))
    levels = torch.empty(shape, dtype=torch.int8, device=unit.device)
    widths = steps.double()

    def quantise(block: int, values: Tensor, root: Tensor) -> Tensor:
        rotation, upper = torch.linalg.qr(root @ curves.double())
        wanted = rotation.T @ (root @ values.double().T)  # [degree + 1, out]
        found = torch.zeros_like(wanted)
        for k in reversed(range(number)):
            free = (wanted[k] - upper[k, k + 1 :] @ found[k + 1 :]) / upper[k, k]
            level = round_to(free, steps[k], top)
            levels[block, k] = level
            found[k] = level * widths[k]
        return (curves @ found.float()).T

    block_feedback(unit, hessian, quantise, size, damping)
    return levels.permute(2, 0, 1).flatten(0, 1)
