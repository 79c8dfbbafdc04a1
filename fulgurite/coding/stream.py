"""Entropy-coded index streams: symbols to bytes and back, exact on every machine.

    symbols -> histogram -> integer table (16 bits a symbol) -> ANS (constriction) -> words -> bytes

Layout, little endian:
    byte 0        mode: 0 packed bits, 1 ANS, 2 all symbols equal
    mode 0        codes of ``ceil(log2(alphabet))`` bits, see ``bits``
    mode 1        ``alphabet`` counts of 2 bytes that sum to 65536, then 32-bit words
    mode 2        the symbol, 4 bytes

The table is made of integers with a power of two as their sum, so that the probabilities the coder
sees are exact in floating point: the decoder sees the encoder's model, whatever the machine.
The encoder takes the mode with the fewest bytes.
"""

from __future__ import annotations

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.coding.bits import pack_bits, unpack_bits

_TOTAL = 1 << 16
_CHUNK = 1 << 20  # symbols at a time
_PACKED, _ANS, _CONSTANT = 0, 1, 2
MAX_ALPHABET = 1 << 14  # beyond this the table outweighs what it saves


def encode_symbols(symbols: Tensor, alphabet: int) -> Tensor:
    """Code integers in the fewest bytes that their histogram allows.

    Args:
        symbols: Integers in ``[0, alphabet)``, any shape, at least one.
        alphabet: Number of distinct symbols possible, 1 to 2**24.

    Returns:
        ``uint8`` vector that ``decode_symbols`` inverts.

    Raises:
        ValueError: If there is no symbol or one lies outside the alphabet.

    Example:
        >>> stream = encode_symbols(torch.zeros(1000, dtype=torch.int64), alphabet=16)
        >>> stream.numel(), decode_symbols(stream, alphabet=16, count=1000).sum().item()
        (5, 0)
    """
    flat = symbols.reshape(-1).cpu()
    if flat.numel() == 0:
        raise ValueError("symbols must not be empty")
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= alphabet:
        raise ValueError(f"symbols must be in [0, {alphabet - 1}], got [{low}, {high}]")
    if (
        low == high and flat.numel() * _width(alphabet) > 32
    ):  # else the symbols are shorter than the mode's 4 bytes
        return _tagged(_CONSTANT, np.array([low], dtype="<u4").tobytes())
    packed = _tagged(_PACKED, pack_bits(flat, _width(alphabet)).numpy().tobytes())
    if alphabet > MAX_ALPHABET or low == high:  # an ANS table needs two symbols
        return packed
    values = flat.numpy()
    # a chunk at a time: the wider integers that counting and coding want would be copies of the weight
    starts = range(0, len(values), _CHUNK)
    counts = sum(
        (np.bincount(values[start : start + _CHUNK], minlength=alphabet) for start in starts),
        np.zeros(alphabet, dtype=np.int64),
    )
    table = quantised_histogram(counts)
    model, coder = _model(table), constriction.stream.stack.AnsCoder()
    for start in reversed(starts):  # a stack: what is decoded first is put on last
        coder.encode_reverse(values[start : start + _CHUNK].astype(np.int32), model)
    words = np.asarray(coder.get_compressed(), dtype="<u4")
    coded = _tagged(_ANS, table.astype("<u2").tobytes() + words.tobytes())
    return coded if coded.numel() < packed.numel() else packed


def decode_symbols(stream: Tensor, alphabet: int, count: int) -> Tensor:
    """Invert ``encode_symbols``.

    Args:
        stream: ``uint8`` vector.
        alphabet: As it was given to ``encode_symbols``.
        count: Number of symbols.

    Returns:
        ``int32`` vector of ``count`` symbols, on the device of ``stream``.

    Raises:
        ValueError: If the stream cannot be what ``encode_symbols`` wrote for these arguments.
    """
    if stream.dtype != torch.uint8 or stream.numel() < 2:
        raise ValueError(f"a stream is uint8 with at least 2 bytes, got {stream.numel()} of {stream.dtype}")
    mode, body = int(stream[0]), stream[1:]
    if mode == _PACKED:
        return unpack_bits(body, _width(alphabet), count)
    data = body.cpu().numpy().tobytes()
    if mode == _CONSTANT:
        symbol = int(np.frombuffer(data, "<u4")[0]) if len(data) == 4 else alphabet
        if symbol >= alphabet:
            raise ValueError(f"a constant stream holds one symbol below {alphabet}, got {data.hex()}")
        return torch.full((count,), symbol, dtype=torch.int32, device=stream.device)
    if mode != _ANS:
        raise ValueError(f"stream mode must be 0, 1 or 2, got {mode}")
    if alphabet > MAX_ALPHABET or len(data) < 2 * alphabet or (len(data) - 2 * alphabet) % 4:
        raise ValueError(f"an ANS stream over {alphabet} symbols cannot have {len(data)} bytes")
    table = np.frombuffer(data, "<u2", count=alphabet).astype(np.int64)
    if table.sum() != _TOTAL:
        raise ValueError(f"an ANS table must sum to {_TOTAL}, got {table.sum()}")
    words = np.frombuffer(data, "<u4", offset=2 * alphabet).astype(np.uint32)
    model, coder = _model(table), constriction.stream.stack.AnsCoder(words)
    decoded = np.empty(count, dtype=np.int32)
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        decoded[start:stop] = coder.decode(model, stop - start)
    return torch.from_numpy(decoded).to(stream.device)


def quantised_histogram(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scale counts to integers that sum to 65536, with at least 1 where a symbol occurs.

    At least two symbols must occur, so that no entry needs more than 16 bits.
    """
    used = counts > 0
    scaled = np.where(used, np.maximum(1, counts * _TOTAL // counts.sum()), 0).astype(np.int64)
    # the rounding error goes to the largest entries, where it costs the least
    while (excess := int(scaled.sum()) - _TOTAL) != 0:
        largest = int(scaled.argmax())
        scaled[largest] -= excess if excess < 0 else min(excess, max(1, int(scaled[largest]) // 2))
    return scaled


def _model(table: NDArray[np.int64]) -> constriction.stream.model.Categorical:
    # a zero entry is no problem: constriction leaves every symbol a minimal slot of 2**-24
    return constriction.stream.model.Categorical(table / np.float64(_TOTAL), perfect=False)


def _width(alphabet: int) -> int:
    return max(1, (alphabet - 1).bit_length())


def _tagged(mode: int, body: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes([mode]) + body, dtype=np.uint8).copy())
