"""Six numbers about each channel of a tensor: what bits are predicted from."""

from __future__ import annotations

import torch
from torch import Tensor

STATISTICS = ("mean", "variance", "std", "skewness", "kurtosis", "sparsity")
"""In the order of the columns of ``channel_statistics``."""

_SMALL = 0.5  # of a step: what rounds to zero


def channel_statistics(channels: Tensor) -> Tensor:
    """Mean, variance, standard deviation, skewness, kurtosis and sparsity of each row.

    Args:
        channels: ``[c, n]`` in units of a quantiser's step; any float type.

    Returns:
        float32 ``[c, 6]``. Variance is over ``n``; kurtosis is 3 for a Gaussian; both it and the skewness are 0 for a
        constant channel; sparsity is the share of entries below half a step.

    Raises:
        ValueError: If there is no entry in a channel.

    Example:
        >>> channel_statistics(torch.tensor([[1.0, -1.0, 1.0, -1.0]])).tolist()
        [[0.0, 1.0, 1.0, 0.0, 1.0, 0.0]]
    """
    if channels.dim() != 2 or channels.shape[1] == 0:
        raise ValueError(f"channels must be [c, n] with n at least 1, got {list(channels.shape)}")
    values = channels.float()
    mean = values.mean(1, keepdim=True)
    off = values - mean
    square = off.square()
    variance = square.mean(1)
    scale = variance.clamp_min(1e-30)
    skewness = (square * off).mean(1) / scale**1.5
    kurtosis = square.square().mean(1) / scale.square()
    varied = variance > 1e-30
    return torch.stack(
        [
            mean[:, 0],
            variance,
            variance.sqrt(),
            torch.where(varied, skewness, 0.0),
            torch.where(varied, kurtosis, 0.0),
            (values.abs() < _SMALL).float().mean(1),
        ],
        dim=1,
    )
