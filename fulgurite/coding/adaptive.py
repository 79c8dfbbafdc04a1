"""Adaptive entropy coding: integers in groups to bytes and back, with no table in the file.

    groups of alike symbols -> chunks, each coded by the counts of those before -> ANS -> words

Each group has integer counts that start as a share of the group's before it and grow with what was coded. The chunks
grow too, so that learning is quick at the start and tables are few later. Encoder and decoder make the same
tables, from integers alone, with 65536 as their sum: what the ANS coder of the constriction library is given
is exact in floating point, so a stream decodes alike on every machine.

Of a symbol, ``symbol >> low_bits`` is coded by the group's table if it lies below ``escape``, and as the escape
otherwise. The low bits, in which a wide distribution is even, and what exceeds the escape are packed as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.coding.stream import quantised_histogram

Integers = NDArray[np.int64]

ESCAPE = 63
"""The escape where none is given: a table has 64 entries."""

_TOTAL = 1 << 16
_FIRST_CHUNK = 32
_LAST_CHUNK = 1 << 16
_SCALE = 32  # a count of one in the prior's finer units
_PRIOR = 12  # occurrences that a neighbour's statistics stand for
_MAX_SYMBOL = (1 << 31) - 1


class AdaptiveEncoder:
    """Gather groups of symbols, then code them all.

    Example:
        >>> encoder = AdaptiveEncoder()
        >>> encoder.put(np.array([0, 1, 0, 0, 2]))
        >>> AdaptiveDecoder(encoder.finish()).get(count=5).tolist()
        [0, 1, 0, 0, 2]
    """

    def __init__(self) -> None:
        self._chunks: list[tuple[NDArray[np.int32], Integers]] = []
        self._raw: list[NDArray[np.integer]] = []
        self._widths: list[int] = []
        self._counts: Integers | None = None
        self.nats = 0.0
        """Ideal code length of what was put in so far under the models that it was put in with."""

    def put(
        self, symbols: NDArray[np.integer], low_bits: int = 0, escape: int = ESCAPE, follows: bool = False
    ) -> None:
        """Add a group of symbols.

        Args:
            symbols: Not negative, ``[n]``.
            low_bits: How many low bits of each to pack as they are.
            escape: Largest entry of the table, which stands for all from there on.
            follows: Begin with a share of the last group's counts and not with a falling law.

        Raises:
            ValueError: If a symbol is negative or needs more than 31 bits.
        """
        if symbols.size and (symbols.min() < 0 or symbols.max() > _MAX_SYMBOL):
            raise ValueError(f"symbols must be in [0, 2**31), got [{symbols.min()}, {symbols.max()}]")
        high = symbols >> low_bits
        counts = _prior(self._counts if follows else None, escape + 1)
        for start, stop in _chunks(len(high)):
            part = np.minimum(high[start:stop], escape)
            table = quantised_histogram(counts)
            self._chunks.append((part.astype(np.int32), table))
            seen = np.bincount(part, minlength=escape + 1)
            used = seen > 0
            self.nats -= float(seen[used] @ np.log(table[used] / _TOTAL))
            counts = counts + _SCALE * seen
        self._counts = counts
        if low_bits:
            self._pack(symbols & ((1 << low_bits) - 1), low_bits)
        if (beyond := high[high >= escape].astype(np.int64) - escape).size:
            width = max(1, int(beyond.max()).bit_length())
            self._pack(np.array([width]), 5)
            self._pack(beyond, width)

    def _pack(self, values: NDArray[np.integer], width: int) -> None:
        self._raw.append(values)
        self._widths.append(width)

    def finish(self) -> Tensor:
        """All that was put in, as ``uint8``: the length of the packed bits, these, then the ANS words."""
        coder = constriction.stream.stack.AnsCoder()
        for symbols, table in reversed(self._chunks):  # a stack: what is decoded first is put on last
            coder.encode_reverse(symbols, _model(table))
        words = np.asarray(coder.get_compressed(), dtype="<u4").tobytes()
        bits = [
            (values[:, None] >> np.arange(width)) & 1
            for values, width in zip(self._raw, self._widths, strict=True)
        ]
        flat = np.concatenate([part.reshape(-1) for part in bits]) if bits else np.zeros(0)
        packed = np.packbits(flat.astype(np.uint8), bitorder="little").tobytes()
        header = len(packed).to_bytes(4, "little")
        return torch.from_numpy(np.frombuffer(header + packed + words, dtype=np.uint8).copy())


class AdaptiveDecoder:
    """Read what an ``AdaptiveEncoder`` has made; each ``get`` must mirror its ``put``.

    Raises:
        ValueError: Here or in ``get`` if the stream cannot be one that was made so.
    """

    def __init__(self, stream: Tensor) -> None:
        data = stream.cpu().numpy().tobytes()
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 + size or (len(data) - 4 - size) % 4:
            raise ValueError(f"an adaptive stream with {size} packed bytes cannot have {len(data)} in all")
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8, size, 4), bitorder="little")
        self._position = 0
        self._counts: Integers | None = None
        words = np.frombuffer(data, "<u4", offset=4 + size).astype(np.uint32)
        if len(words) and words[-1] == 0:
            raise ValueError("the last word of an adaptive stream must not be 0")
        self._coder = constriction.stream.stack.AnsCoder(words)

    def get(
        self, count: int, low_bits: int = 0, escape: int = ESCAPE, follows: bool = False
    ) -> NDArray[np.int32]:
        """The next ``count`` symbols; the rest as they were put in."""
        values = np.empty(count, dtype=np.int32)
        counts = _prior(self._counts if follows else None, escape + 1)
        for start, stop in _chunks(count):
            part = self._coder.decode(_model(quantised_histogram(counts)), stop - start)
            values[start:stop] = part
            counts = counts + _SCALE * np.bincount(part, minlength=escape + 1)
        self._counts = counts
        if low_bits:
            values <<= low_bits
            values |= self._unpack(count, low_bits)
        if counts[escape] >= _SCALE and (escaped := values >> low_bits == escape).any():
            width = int(self._unpack(1, 5)[0])
            values[escaped] += self._unpack(int(escaped.sum()), width) << low_bits
        return values

    def finish(self) -> None:
        """Check that nothing is left over.

        Raises:
            ValueError: If something is.
        """
        if not self._coder.is_empty():
            raise ValueError("an adaptive stream holds more words than its symbols need")
        if -(-self._position // 8) != len(self._bits) // 8:
            raise ValueError(f"packed bits end at {self._position} of {len(self._bits)}")

    def _unpack(self, count: int, width: int) -> NDArray[np.int32]:
        stop = self._position + count * width
        if stop > len(self._bits):
            raise ValueError(f"packed bits end at {len(self._bits)}, {stop} are needed")
        bits = self._bits[self._position : stop].reshape(count, width)
        self._position = stop
        values = np.zeros(count, dtype=np.int32)
        for place in range(width):
            values |= bits[:, place].astype(np.int32) << place
        return values


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Lengths 32, 32, 64, 128, ...: as many symbols as came before, within bounds."""
    start = 0
    while start < count:
        stop = min(count, start + min(max(_FIRST_CHUNK, start), _LAST_CHUNK))
        yield start, stop
        start = stop


def _prior(counts: Integers | None, size: int) -> Integers:
    """Counts before the first symbol: a falling law, or a share of what the group before this one has seen."""
    if counts is None:
        law = (_PRIOR * _SCALE >> 1) >> np.minimum(np.arange(size) // 2 + 1, 40)
        return np.asarray(np.maximum(1, law), dtype=np.int64)
    known = np.zeros(size, dtype=np.int64)
    known[: min(size, len(counts))] = counts[:size]
    return np.asarray(np.maximum(1, known * (_PRIOR * _SCALE) // max(1, int(known.sum()))), dtype=np.int64)


def _model(table: Integers) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(table / np.float64(_TOTAL), perfect=False)
