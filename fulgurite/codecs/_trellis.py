r"""The trellis of entropy-coded quantisation: which sign a magnitude has, and nothing else.

    magnitudes m_t -> branch bits b_t -> signs s_t (a shift register over GF(2)) -> (-1)^(m_t + s_t) level[m_t]

The levels are the half-integers ``m + 1/2``. Ungerboeck's labels D0 D1 D2 D3 D0 ... of consecutive levels
make two unions, ``D0 + D2`` and ``D1 + D3``, and the second is the first with its sign changed: each holds each
magnitude once. So a weight needs no sign bit, both unions have the same statistics, and one
table of probabilities serves every state (Joshi, Crump and Fischer, "Image subband coding using arithmetic
coded trellis coded quantization", IEEE Trans. CSVT 5(6), 1995). Which union is next, ``s``, follows from the
branches taken before, ``b`` (D0 or D2), by a systematic convolutional code: ``h0(D) s = h1(D) b``.

Decoding is a division by ``h0`` of polynomials over GF(2). As ``h(D)^2 = h(D^2)`` there, ``1 / h0`` is the product
of ``h0(D^(2^k))`` for ``k = 0, 1, ...``: log2(length) rounds of shifted XORs over all sequences at once, for any
number of states.

Codes: G. Ungerboeck, "Trellis-coded modulation with redundant signal sets", IEEE Commun. Mag. 25(2), 1987, table I;
as a quantiser: Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources",
IEEE Trans. Commun. 38(1), 1990.
"""

from __future__ import annotations

import torch
from torch import Tensor

_POLYNOMIALS: dict[int, tuple[int, int]] = {  # states: h0, h1, in octal as the tables print them
    4: (0o5, 0o2),
    8: (0o13, 0o4),
    16: (0o23, 0o4),
    32: (0o45, 0o10),
    64: (0o103, 0o24),
    128: (0o235, 0o126),
    256: (0o515, 0o362),
}

STATES = (1, *_POLYNOMIALS)
"""Numbers of states; 1 is a scalar quantiser, which has no trellis."""


def register(states: int) -> tuple[int, int]:
    """What one step of the encoder's register adds for a sign bit of 1 and for a branch bit of 1.

    A state's lowest bit is the sign ``s``; its successor is ``(state >> 1) ^ s * first ^ b * second``.
    """
    feedback, forward = _POLYNOMIALS[states]
    return feedback >> 1, forward >> 1


def branch_of(magnitudes: Tensor) -> Tensor:
    """``b``: 0 where a magnitude lies in D0, 1 where it lies in D2 (seen from the union ``D0 + D2``)."""
    return ((magnitudes + 1) >> 1) & 1


def signs_of(magnitudes: Tensor, states: int) -> Tensor:
    """Whether each level is negative.

    Args:
        magnitudes: ``uint8`` or wider integers ``[sequences, length]``; every sequence starts in state 0.
        states: A key of the codes.

    Returns:
        1 where it is, else 0: ``uint8``, of the same shape.

    Example:
        >>> signs_of(torch.tensor([[0, 0, 1, 0]], dtype=torch.uint8), states=4).tolist()
        [[0, 0, 1, 1]]
    """
    feedback, forward = _POLYNOMIALS[states]
    length = magnitudes.shape[1]
    branches = branch_of(magnitudes).to(torch.uint8)
    signs = torch.zeros_like(branches)
    for shift in _taps(forward):
        if shift < length:
            signs[:, shift:] ^= branches[:, : length - shift]
    stretch = 1
    while stretch < length:
        previous = signs.clone()
        for tap in _taps(feedback):
            shift = tap * stretch
            if 0 < shift < length:
                signs[:, shift:] ^= previous[:, : length - shift]
        stretch *= 2
    return signs ^ (magnitudes & 1).to(torch.uint8)


def _taps(polynomial: int) -> list[int]:
    return [power for power in range(polynomial.bit_length()) if polynomial >> power & 1]
