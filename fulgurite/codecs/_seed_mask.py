"""Masks that a seed stands for: the same on every machine, and nothing of them is stored.

    seed, place -> SplitMix64 of seed + place -> upper 32 bits -> below drop * 2^32: dropped

Reference: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014,
https://doi.org/10.1145/2660193.2660195. Each place is computed by itself, so any part of a mask can be.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def random_mask(rows: int, columns: int, drop: float, seed: int) -> Tensor:
    """Which weights stay, each by itself with probability ``1 - drop``; the first where none else does.

    Args:
        rows: Of the weight.
        columns: Of the weight.
        drop: In [0, 1).
        seed: 0 to 2**32 - 1.

    Returns:
        Boolean ``[rows, columns]`` on the CPU.

    Example:
        >>> random_mask(2, 4, 0.5, seed=1).int().tolist()
        [[1, 0, 0, 1], [0, 1, 0, 0]]
    """
    first = _mixed(np.array([seed], dtype=np.uint64))  # seeds that are near give streams that are far
    words = _mixed(first + np.arange(1, rows * columns + 1, dtype=np.uint64) * _GAMMA)
    kept = (words >> np.uint64(32)) >= np.uint64(round(drop * 2**32))
    kept[0] |= not kept.any()  # a refinement has nothing to train in an empty part
    return torch.from_numpy(kept.reshape(rows, columns))


def _mixed(
    words: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    words = (words ^ (words >> np.uint64(30))) * _MIX[0]
    words = (words ^ (words >> np.uint64(27))) * _MIX[1]
    return words ^ (words >> np.uint64(31))
