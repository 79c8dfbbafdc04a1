"""Integers to packed bits and back.

    codes -> bits, least significant first -> bytes, first code in the lowest bits

Code ``i`` of width ``b`` takes the bits ``i*b .. i*b + b - 1`` of the stream; bit ``k`` of the stream
is bit ``k % 8`` of byte ``k // 8``. The last byte is filled with zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 1 << 19  # codes at a time, a multiple of 8: bounds the temporaries to a few MB


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack unsigned integers of ``bits`` bits each.

    Args:
        codes: Integers in ``[0, 2**bits)``, any shape.
        bits: Width of one code, 1 to 24.

    Returns:
        ``uint8`` vector of ``ceil(numel * bits / 8)`` bytes.

    Raises:
        ValueError: If ``bits`` or a code is out of range.

    Example:
        >>> pack_bits(torch.tensor([1, 2, 3]), bits=4).tolist()
        [33, 3]
    """
    _check_bits(bits)
    codes = codes.reshape(-1)
    if codes.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=codes.device)
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"codes must be in [0, {(1 << bits) - 1}] for {bits} bits, got [{low}, {high}]")
    shifts = torch.arange(bits, device=codes.device, dtype=torch.int32)
    powers = torch.tensor([1 << k for k in range(8)], device=codes.device, dtype=torch.uint8)
    packed = torch.empty(math.ceil(codes.numel() * bits / 8), dtype=torch.uint8, device=codes.device)
    for start in range(0, codes.numel(), _CHUNK):  # of a whole number of bytes each
        some = codes[start : start + _CHUNK].to(torch.int32)[:, None]
        stream = ((some >> shifts) & 1).to(torch.uint8).reshape(-1)  # [n * bits]
        stream = functional.pad(stream, (0, -stream.numel() % 8))
        first = start * bits // 8
        packed[first : first + stream.numel() // 8] = (stream.reshape(-1, 8) * powers).sum(
            1, dtype=torch.uint8
        )
    return packed


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Invert ``pack_bits``.

    Args:
        packed: ``uint8`` vector.
        bits: Width of one code, 1 to 24.
        count: Number of codes.

    Returns:
        ``int32`` vector of ``count`` codes.

    Raises:
        ValueError: If ``packed`` does not have the length that ``count`` codes need.
    """
    _check_bits(bits)
    expected = math.ceil(count * bits / 8)
    if packed.dtype != torch.uint8 or packed.numel() != expected:
        raise ValueError(
            f"{count} codes of {bits} bits need {expected} bytes of uint8, "
            f"got {packed.numel()} of {packed.dtype}"
        )
    packed = functional.pad(packed.reshape(-1), (0, 3))  # so that the last code may read 4 bytes
    codes = torch.empty(count, dtype=torch.int32, device=packed.device)
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        offset = torch.arange(start, stop, device=packed.device, dtype=torch.int64) * bits
        byte = offset >> 3
        word = packed[byte].to(torch.int64)
        for k in range(1, (bits + 6) // 8 + 1):  # a code of b bits touches at most ceil((b + 7) / 8) bytes
            word |= packed[byte + k].to(torch.int64) << (8 * k)
        codes[start:stop] = ((word >> (offset & 7)) & ((1 << bits) - 1)).to(torch.int32)
    return codes


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 24:
        raise ValueError(f"bits must be in [1, 24], got {bits}")
