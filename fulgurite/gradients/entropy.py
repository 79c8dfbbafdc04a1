r"""Bits that a channel takes: measured with the coder that sends it, or by a formula from its variance alone.

channel / step -> rounded -> adaptive coder -> bits per value
variance / step^2 -> entropy of a rounded Gaussian of it --> bits per value
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fulgurite.coding.adaptive import AdaptiveEncoder
from fulgurite.gradients.statistics import STATISTICS, channel_statistics

_LOG2_LEAST, _LOG2_MOST, _POINTS = -8.0, 12.0, 401  # of a Gaussian's width in steps
_REACH = 8  # standard deviations that are summed over
_DIRECT = 64.0  # steps in a standard deviation from which the formula for fine steps is exact to 1e-4


def zigzag(codes: Tensor) -> Tensor:
    """0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ...: what adaptive models expect, small numbers first."""
    return torch.where(codes < 0, -2 * codes - 1, 2 * codes)


def measured_bits(channels: Tensor) -> Tensor:
    """Bits per value that the project's adaptive coder takes for each channel, coded by itself.

    Args:
        channels: ``[c, n]`` in units of the step that they are rounded to.

    Returns:
        float32 ``[c]``.
    """
    symbols = zigzag(channels.float().round().long()).cpu().numpy()
    found = []
    for row in symbols:
        encoder = AdaptiveEncoder()
        # what is beyond the table is packed; a table as wide as the values leaves nothing beyond
        encoder.put(row, escape=max(8, int(row.max()) + 1))
        found.append(encoder.nats / math.log(2) / len(row))
    return torch.tensor(found)


class Gaussian:
    """Bits by the entropy of a rounded Gaussian, from the variance alone: the formula that a predictor must beat."""

    def __init__(self) -> None:
        widths = 2 ** torch.linspace(_LOG2_LEAST, _LOG2_MOST, _POINTS, dtype=torch.float64)
        self._table = torch.tensor([_rounded_entropy(float(width)) for width in widths], dtype=torch.float32)

    def __call__(self, statistics: Tensor) -> Tensor:
        """Bits per value ``[c]`` of statistics ``[c, 6]`` in units of the step."""
        width = statistics[:, STATISTICS.index("std")].clamp(2**_LOG2_LEAST, 2**_LOG2_MOST)
        place = (width.log2() - _LOG2_LEAST) / (_LOG2_MOST - _LOG2_LEAST) * (_POINTS - 1)
        low = place.floor().long().clamp(0, _POINTS - 2)
        table = self._table.to(statistics.device)
        return torch.lerp(table[low], table[low + 1], place - low)


def bits_of(channels: Tensor, predictor: object) -> Tensor:
    """What a predictor says of channels in units of the step, float32 ``[c]``, not negative."""
    if not callable(predictor):
        raise TypeError(f"a predictor is called with statistics, got {type(predictor).__name__}")
    bits: Tensor = predictor(channel_statistics(channels))
    return bits.clamp_min(0)


def _rounded_entropy(width: float) -> float:
    """Entropy in bits of a centred Gaussian that is rounded to integers."""
    if width > _DIRECT:
        return 0.5 * math.log2(2 * math.pi * math.e) + math.log2(width)
    edges = torch.arange(0, math.ceil(_REACH * width) + 2, dtype=torch.float64) - 0.5
    below = torch.special.ndtr(edges / width)
    mass = below[1:] - below[:-1]  # of 0, 1, 2, ...
    mass = torch.cat([mass, mass[1:]])
    mass = mass[mass > 0]
    return float(-(mass * mass.log2()).sum())
