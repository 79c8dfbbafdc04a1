"""The type of numbers that a network computes in."""

from __future__ import annotations

import torch
from torch import nn


def dtype_of(network: nn.Module) -> torch.dtype:
    """Type of a network's first matrix, or of whatever it has; of a packed one that matrix may not be a parameter.

    Example:
        >>> dtype_of(torch.nn.Linear(2, 2).bfloat16())
        torch.bfloat16
    """
    first: torch.dtype | None = None
    for parameter in network.parameters():
        if parameter.is_floating_point():
            if parameter.dim() > 1:
                return parameter.dtype
            first = first or parameter.dtype
    return first or torch.float32
