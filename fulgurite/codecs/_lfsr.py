r"""Linear feedback shift registers: a seed of a few bits stands for a matrix of pseudo-random numbers.

    seed -> state_1 = seed, state_2, ... -> (state - 2^(K-1)) / (2^(K-1) - 1) -> U(seed), [C, P]

This is the map of the file format, to the bit:

1. The register has ``K`` bits; its state ``v`` is in ``[1, 2^K - 1]``. Bit 0 is the lowest.
2. One step: ``f`` is the exclusive or of the bits ``tap - 1`` of ``v`` over the taps that ``TAPS``
   lists for ``K``; then ``v' = (2 v + f) mod 2^K``. The new bit enters at the bottom.
3. ``U(seed)`` of ``C`` rows and ``P`` columns is filled row by row with the states that follow one
   another from ``v = seed``, the seed itself first: entry ``(c, p)`` is state number ``c P + p``,
   counted from 0.
4. A state stands for the number ``(v - 2^(K-1)) / (2^(K-1) - 1)``, which lies in ``[-1, 1]``.

Reference: Shafipour et al., "SeedLM: Compressing LLM Weights into Seeds of Pseudo-Random Generators",
ICLR 2025, https://arxiv.org/abs/2410.10714, section 3. Its figure runs the register forward from the
seed, its algorithm indexes a cached cycle; these are two different maps, and this file takes the figure.

The taps are maximal length: from any seed the register visits all ``2^K - 1`` states that are not
zero. So no two seeds give the same matrix (its first entry is the seed), and no search can skip one.
Taps: Alfke, "Efficient Shift Registers, LFSR Counters, and Long Pseudo-Random Sequence Generators",
Xilinx XAPP052, 1996, table 3; those of 16 bits are the ones that SeedLM prints.
"""

from __future__ import annotations

import torch
from torch import Tensor

TAPS: dict[int, tuple[int, ...]] = {
    2: (2, 1),
    3: (3, 2),
    4: (4, 3),
    5: (5, 3),
    6: (6, 5),
    7: (7, 6),
    8: (8, 6, 5, 4),
    9: (9, 5),
    10: (10, 7),
    11: (11, 9),
    12: (12, 6, 4, 1),
    13: (13, 4, 3, 1),
    14: (14, 5, 3, 1),
    15: (15, 14),
    16: (16, 15, 13, 4),
    17: (17, 14),
    18: (18, 11),
    19: (19, 6, 2, 1),
    20: (20, 17),
}
"""Taps of a maximal-length register by its width in bits."""


def next_state(state: Tensor, seed_bits: int) -> Tensor:
    """Advance registers by one step.

    Args:
        state: Integers in ``[1, 2**seed_bits)``, ``int32`` or ``int64``, any shape.
        seed_bits: Width ``K`` of the register, a key of ``TAPS``.

    Returns:
        The next states, in the shape and dtype of ``state``.

    Example:
        >>> next_state(torch.tensor([1, 8, 9]), seed_bits=4).tolist()  # taps 4 and 3
        [2, 1, 3]
    """
    feedback = torch.zeros_like(state)
    for tap in TAPS[seed_bits]:
        feedback ^= state >> (tap - 1)
    return ((state << 1) & ((1 << seed_bits) - 1)) | (feedback & 1)


def seed_matrix(seeds: Tensor, rows: int, columns: int, seed_bits: int) -> Tensor:
    """The numerators ``v - 2^(K-1)`` of ``U(seed)``; ``denominator`` divides them.

    Whole numbers, so that a decoder can add exactly and round once.

    Args:
        seeds: Integers in ``[1, 2**seed_bits)``, ``[n]``.
        rows: Block size ``C``.
        columns: Latents of a block, ``P``.
        seed_bits: Width ``K`` of the register.

    Returns:
        ``float64`` ``[C, P, n]``.
    """
    state = seeds.to(torch.int32)
    entries = torch.empty(rows * columns, len(seeds), dtype=torch.float64, device=seeds.device)
    for row in entries:
        row.copy_(state)
        state = next_state(state, seed_bits)
    return (entries - (1 << (seed_bits - 1))).reshape(rows, columns, -1)


def denominator(seed_bits: int) -> int:
    """What the numerators of ``seed_matrix`` are divided by."""
    return (1 << (seed_bits - 1)) - 1
