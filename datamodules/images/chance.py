"""Random numbers that are a function of seed, epoch and picture alone.

    (seed, epoch, index, use) -> splitmix64 -> uint64

However many workers and ranks share an epoch out, and wherever it is gone on with, a picture is seen the same way.

Reference: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014,
https://doi.org/10.1145/2660193.2660195, the finaliser of section 5 with the constants of variant 13.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CAPTION, FLIP, ROW, COLUMN, TRIVIAL, CALIBRATION = range(6)
"""What a number is for: each use has numbers of its own."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _FIRST
        values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def draw(seed: int, epochs: Sequence[int], indices: Sequence[int], use: int) -> NDArray[np.uint64]:
    """A random number for each picture, uniform over 64 bits, ``[n]``.

    Args:
        seed: Seed of the run.
        epochs: Epoch in which each picture is seen, ``[n]``.
        indices: Which picture it is, ``[n]``.
        use: What the number is for.
    """
    start = np.array([seed], np.int64).astype(np.uint64) ^ (np.uint64(use) << np.uint64(56))
    values = _mixed(start) ^ np.asarray(epochs, np.int64).astype(np.uint64)
    return _mixed(_mixed(values) ^ np.asarray(indices, np.int64).astype(np.uint64))


def below(numbers: NDArray[np.uint64], limits: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Uniform numbers from 0 to below ``limits``, ``[n]``; the bias of the modulus is below 2**-40."""
    return (numbers % np.asarray(limits).astype(np.uint64)).astype(np.int64)
