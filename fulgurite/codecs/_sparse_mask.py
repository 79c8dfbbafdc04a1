"""Masks to bytes and back.

    N:M           which of the M-over-N patterns each group has -> stream of that alphabet
    anything else which blocks stay -> bits -> stream, or classes of rows and columns -> adaptive coder

A bitmap with a share ``p`` of ones takes ``H(p)`` bits an entry at least if nothing else is known of it. Rows and
columns of a pruned matrix differ in how much of them stays: entries are coded by the class of their row and
column then, 16 classes of density each, where that takes fewer bytes.

Layout of a bitmap: byte 0 is 0, then a stream of alphabet 2 in row-major order; or 1, then an adaptive stream
with the rows' classes, the columns', and the entries of each pair of classes, in ascending order of both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.codecs.pattern import Pattern
from fulgurite.coding import decode_symbols, encode_symbols
from fulgurite.coding.adaptive import AdaptiveDecoder, AdaptiveEncoder

_CLASSES = 16
_BIT = 2  # the escape of a group of bits: one more than they need
_FEWEST = 1024  # entries from which classes are tried: they would outweigh what they save


def write_mask(kept: Tensor, pattern: Pattern) -> Tensor:
    """Bytes of a mask.

    Args:
        kept: Which weights stay, boolean ``[out, in]``; a mask that the pattern can have.
        pattern: The same for ``read_mask``.

    Returns:
        ``uint8`` vector on the mask's device.
    """
    if pattern.keep:
        groups = kept.reshape(-1, pattern.columns).long()
        powers = 1 << torch.arange(pattern.columns, device=kept.device)
        table = _patterns(pattern)
        places = torch.zeros(1 << pattern.columns, dtype=torch.int64)
        places[(table.long() * powers.cpu()).sum(1)] = torch.arange(len(table))
        return encode_symbols(places.to(kept.device)[(groups * powers).sum(1)], len(table)).to(kept.device)
    blocks = kept[:: pattern.rows, :: pattern.columns].cpu()
    plain = encode_symbols(blocks.to(torch.uint8), 2)
    stream = torch.cat([torch.zeros(1, dtype=torch.uint8), plain])
    if blocks.numel() >= _FEWEST:
        classed = torch.cat([torch.ones(1, dtype=torch.uint8), _by_classes(blocks.numpy())])
        stream = min(stream, classed, key=Tensor.numel)
    return stream.to(kept.device)


def read_mask(stream: Tensor, pattern: Pattern, rows: int, columns: int) -> Tensor:
    """Invert ``write_mask``: boolean ``[rows, columns]`` on the stream's device.

    Raises:
        ValueError: If the stream cannot be one of such a mask.
    """
    if pattern.keep:
        pattern.check(columns)
        table = _patterns(pattern).to(stream.device)
        found = decode_symbols(stream, len(table), rows * columns // pattern.columns).long()
        if int(found.max()) >= len(table):
            raise ValueError(f'patterns of "{pattern.text}" are below {len(table)}, got {int(found.max())}')
        return table[found].reshape(rows, columns)
    down, across = pattern.blocks(rows, columns)
    if stream.dtype != torch.uint8 or stream.numel() < 2 or int(stream[0]) > 1:
        raise ValueError("a mask is uint8 and begins with 0 or 1")
    if int(stream[0]) == 0:
        blocks = decode_symbols(stream[1:], 2, down * across).bool().reshape(down, across)
    else:
        blocks = torch.from_numpy(_from_classes(stream[1:], down, across)).to(stream.device)
    whole = blocks.repeat_interleave(pattern.rows, 0).repeat_interleave(pattern.columns, 1)
    return whole[:rows, :columns].contiguous()


def _patterns(pattern: Pattern) -> Tensor:
    """All ways to keep N of M, boolean ``[ways, M]``, in lexicographic order of the places kept."""
    ways = math.comb(pattern.columns, pattern.keep)
    chosen = torch.tensor(list(itertools.combinations(range(pattern.columns), pattern.keep)))
    return torch.zeros(ways, pattern.columns, dtype=torch.bool).scatter_(1, chosen, True)


def _by_classes(bits: NDArray[np.bool_]) -> Tensor:
    classes = [np.rint((_CLASSES - 1) * bits.mean(axis)).astype(np.int64) for axis in (1, 0)]
    encoder = AdaptiveEncoder()
    for of_lines in classes:
        encoder.put(of_lines, escape=_CLASSES)
    for down, across in _pairs(*classes):
        encoder.put(bits[np.ix_(down, across)].reshape(-1).astype(np.int64), escape=_BIT)
    return encoder.finish()


def _from_classes(stream: Tensor, rows: int, columns: int) -> NDArray[np.bool_]:
    decoder = AdaptiveDecoder(stream)
    classes = [decoder.get(count, escape=_CLASSES) for count in (rows, columns)]
    if max(int(of_lines.max()) for of_lines in classes) >= _CLASSES:
        raise ValueError(f"classes of a mask's rows and columns must be below {_CLASSES}")
    bits = np.zeros((rows, columns), dtype=np.bool_)
    for down, across in _pairs(*classes):
        found = decoder.get(len(down) * len(across), escape=_BIT)
        bits[np.ix_(down, across)] = found.reshape(len(down), len(across)) > 0
    decoder.finish()
    return bits


def _pairs(
    rows: NDArray[np.integer], columns: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
    """The rows and the columns of each pair of classes that occurs."""
    for row, column in itertools.product(np.unique(rows), np.unique(columns)):
        yield np.flatnonzero(rows == row), np.flatnonzero(columns == column)
