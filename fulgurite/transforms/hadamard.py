"""Randomised Hadamard rotation: spreads outliers evenly, and costs a seed.

    vector -> random signs -> blocks of 2^k -> Walsh-Hadamard / sqrt(2^k) -> a second time, shifted -> vector

Reference: Tseng et al., "QuIP#", ICML 2024, https://arxiv.org/abs/2402.04396, section 3. Differs from the paper: a
width that is no power of two is rotated twice in overlapping blocks, with no matrix of another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64
_WORD = (1 << 64) - 1


def random_signs(length: int, seed: int) -> Tensor:
    """``length`` signs as float32, the same on every machine (SplitMix64)."""
    state, signs = seed & _WORD, []
    for _ in range(-(-length // 64)):
        state = (state + _MIX[0]) & _WORD
        word = state
        word = ((word ^ (word >> 30)) * _MIX[1]) & _WORD
        word = ((word ^ (word >> 27)) * _MIX[2]) & _WORD
        word ^= word >> 31
        signs += [1.0 if word >> bit & 1 else -1.0 for bit in range(64)]
    return torch.tensor(signs[:length])


def rotate(values: Tensor, seed: int) -> Tensor:
    """Rotate the last dimension: an orthogonal map that ``unrotate`` inverts.

    Args:
        values: Floats ``[..., n]``.
        seed: Of the signs.

    Example:
        >>> spike = torch.eye(4)[0]
        >>> rotate(spike, seed=1).abs().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    length = values.shape[-1]
    first, second = _spans(length)
    values = values * random_signs(length, seed).to(values)
    values = _in_place(values, first)
    if second != first:
        values = values * random_signs(length, seed + 1).to(values)
        values = _in_place(values, second)
    return values


def unrotate(values: Tensor, seed: int) -> Tensor:
    """The inverse of ``rotate``."""
    length = values.shape[-1]
    first, second = _spans(length)
    if second != first:
        values = _in_place(values.clone(), second)
        values = values * random_signs(length, seed + 1).to(values)
    values = _in_place(values.clone(), first)
    return values * random_signs(length, seed).to(values)


def _spans(length: int) -> tuple[slice, slice]:
    """Where the largest power of two fits at the start, and where at the end."""
    size = 1 << (length.bit_length() - 1)
    return slice(0, size), slice(length - size, length)


def _in_place(values: Tensor, span: slice) -> Tensor:
    part = values[..., span]
    size = part.shape[-1]
    shape = part.shape
    half = 1
    while half < size:
        pairs = part.reshape(*shape[:-1], size // (2 * half), 2, half)
        part = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], dim=-2)
        part = part.reshape(shape)
        half *= 2
    values[..., span] = part / size**0.5
    return values
