"""Survivors in few bits: a sign and a magnitude on even levels between a row's floor and its scale.

    survivors of a row -> scale (16 bits), floor (8 bits, a share of the scale) -> sign, level -> code

Zero is the mask's business: pruning leaves a gap around it, and levels there would be lost. With ``K = 2**(bits - 1)``
levels, code ``2 k + s`` is ``(-1)^s * scale * (low + (k + 1/2) / K * (1 - low))`` with ``low = floor / 256``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fulgurite.codecs.base import to_half

_FLOORS = 256
_SHARES = 16  # of the largest magnitude that are tried as scale
_TRIED_FLOORS = (0, 16, 32, 48, 64, 80, 96, 128, 160, 192, 224)
_CHUNK = 1 << 20  # weights at a time


def fit_grid(values: Tensor, kept: Tensor, bits: int, costs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and floor of each row with the least squared error among those tried.

    Args:
        values: ``[out, in]``.
        kept: Which of them are coded.
        bits: Of a code.
        costs: What an error in each column costs, ``[in]``; all alike by default.

    Returns:
        16-bit floats and ``uint8``, ``[out]`` each; a row of which nothing is kept has zeros.
    """
    parts = [
        _fit(some.abs(), mask, bits, costs)
        for some, mask in zip(*(torch.split(part, _rows(values)) for part in (values, kept)), strict=True)
    ]
    scales, floors = (torch.cat(part) for part in zip(*parts, strict=True))
    return to_half(scales), floors.to(torch.uint8)


def _rows(values: Tensor) -> int:
    return max(1, _CHUNK // values.shape[1])


def _fit(magnitudes: Tensor, kept: Tensor, bits: int, costs: Tensor | None) -> tuple[Tensor, Tensor]:
    weights = kept.float() if costs is None else kept * costs
    largest = (magnitudes * kept).amax(1)
    least = magnitudes.masked_fill(~kept, torch.inf).amin(1)
    best = (torch.full_like(largest, torch.inf), largest, torch.zeros_like(largest))

    def tried(scale: Tensor, floor: Tensor) -> None:
        nonlocal best
        units = units_of(codes_of(magnitudes, scale, floor, bits), floor, bits)
        error = ((units * scale[:, None] - magnitudes).square_() * weights).sum(1)
        better = error < best[0]
        given = zip((error, scale, floor), best, strict=True)
        best = tuple(torch.where(better, new, old) for new, old in given)  # type: ignore[assignment]

    for share in torch.linspace(1.05, 0.45, _SHARES).tolist():
        scale = to_half(share * largest).float()
        tried(scale, (_FLOORS * least / scale.clamp_min(1e-30)).nan_to_num(0).floor().clamp(0, _FLOORS - 1))
    _, scale, _ = best
    for floor in _TRIED_FLOORS:
        tried(scale, torch.full_like(scale, floor))
    return best[1], best[2]


def codes_of(values: Tensor, scale: Tensor, floor: Tensor, bits: int) -> Tensor:
    """Nearest codes ``[out, n]``, ``uint8``.

    Args:
        values: ``[out, n]``.
        scale: ``[out]``.
        floor: ``[out]``.
        bits: Of a code.
    """
    levels = 1 << (bits - 1)
    low = floor.float()[:, None] / _FLOORS
    share = values.abs() / scale.float().clamp_min(1e-30)[:, None]
    level = ((share - low) / (1 - low) * levels).floor().clamp_(0, levels - 1)
    return (2 * level + (values < 0)).to(torch.uint8)


def units_of(codes: Tensor, floor: Tensor, bits: int) -> Tensor:
    """What the codes are in units of the scale, signed.

    Args:
        codes: ``[out, n]``, or ``[n]`` with a floor for each.
        floor: ``[out]`` or ``[n]``.
        bits: Of a code.
    """
    low = floor.float() / _FLOORS
    low = low[:, None] if codes.dim() > 1 else low
    magnitude = low + ((codes >> 1).float() + 0.5) / (1 << (bits - 1)) * (1 - low)
    return torch.where((codes & 1).bool(), -magnitude, magnitude)
