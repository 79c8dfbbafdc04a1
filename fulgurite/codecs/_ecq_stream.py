"""The bytes of an entropy-coded weight.

Layout, little endian:
    byte 0        format, 1
    byte 1        log2 of the trellis's states; 0 for a scalar quantiser
    byte 2        bit 0: the matrix was transposed; bit 1: its inputs were rotated; bit 2: its outputs
    byte 3        number of classes, 1 to 64
    byte 4        first class, 0 to 63
    bytes 5-6     rows of one sequence of the trellis
    bytes 7-10    base step, float32
    bytes 11-14   seed of the rotation
    byte 15       which of the first seven vectors of the stream are there; the others are all zeros
    then          an adaptive stream: row codes, step codes, gains of columns and of rows (zigzag), classes of rows
                  and of columns over their least, level codes of the classes (each less the last, zigzag), sum of
                  the least classes (zigzag), magnitudes: a group for each class, rising, of the rectangles that it
                  has in the matrix sorted by classes of columns and of rows, column after column
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.codecs._ecq_solution import CLASSES, SMALL, Blocks, Classes, Solution, escape, low_bits
from fulgurite.codecs._trellis import STATES
from fulgurite.coding.adaptive import AdaptiveDecoder, AdaptiveEncoder

_HEADER = struct.Struct("<BBBBBHfIB")
_FORMAT = 1


@dataclass(frozen=True)
class Orientation:
    """How the coded matrix lies in the weight.

    Args:
        transposed: Its columns are the weight's rows.
        rotated_inputs: Its columns were rotated before coding.
        rotated_outputs: Its rows were.
        seed: Of the rotations.
    """

    transposed: bool = False
    rotated_inputs: bool = False
    rotated_outputs: bool = False
    seed: int = 0


def write_stream(solution: Solution, orientation: Orientation) -> Tensor:
    """All of a solution as ``uint8``."""
    row_classes, column_classes = solution.row_classes, solution.column_classes
    classes = solution.classes
    first, last = int(classes.min()), int(classes.max())
    flags = orientation.transposed | orientation.rotated_inputs << 1 | orientation.rotated_outputs << 2
    least = int(row_classes.min()), int(column_classes.min())
    vectors = (
        solution.row_codes,
        solution.step_codes,
        _zigzag(solution.gain_codes),
        _zigzag(solution.row_gain_codes),
        row_classes - least[0],
        column_classes - least[1],
        _zigzag(np.diff(solution.level_codes[first : last + 1], axis=0, prepend=0).reshape(-1)),
    )
    present = [bool(values.any()) for values in vectors]
    header = _HEADER.pack(
        _FORMAT,
        solution.states.bit_length() - 1,
        flags,
        last - first + 1,
        first,
        solution.segment,
        solution.base,
        orientation.seed,
        sum(there << place for place, there in enumerate(present)),
    )
    encoder = AdaptiveEncoder()
    for there, values in zip(present, vectors, strict=True):
        if there:
            encoder.put(values)
    encoder.put(_zigzag(np.array([sum(least)])))
    blocks = Blocks.of(row_classes, column_classes)
    ordered = blocks.sort(solution.magnitudes)
    for place, (kind, slices) in enumerate(blocks.slices.items()):
        group = np.concatenate([ordered[some].reshape(-1) for some in slices])
        encoder.put(group, low_bits(kind), escape(kind), follows=place > 0)
    body = encoder.finish()
    return torch.cat([torch.from_numpy(np.frombuffer(header, np.uint8).copy()), body])


def read_stream(stream: Tensor, rows: int, columns: int) -> tuple[Solution, Orientation]:
    """Invert ``write_stream``.

    Args:
        stream: ``uint8`` vector.
        rows: Of the coded matrix, before it was transposed back.
        columns: The same.

    Raises:
        ValueError: If the stream cannot be of such a matrix.
    """
    if stream.dtype != torch.uint8 or stream.numel() < _HEADER.size:
        raise ValueError(
            f"an ecq stream is uint8 with at least {_HEADER.size} bytes, got {stream.numel()} of {stream.dtype}"
        )
    header = stream[: _HEADER.size].cpu().numpy().tobytes()
    version, log_states, flags, count, first, segment, base, seed, present = _HEADER.unpack(header)
    if version != _FORMAT:
        raise ValueError(f"format of an ecq stream must be {_FORMAT}, got {version}")
    states = 1 << min(log_states, 16)
    if states not in STATES:
        raise ValueError(f"an ecq stream has 1, 4, 8, ... or 256 states, got 2**{log_states}")
    if not 1 <= count <= CLASSES - first or flags > 7 or not segment >= 1 or not np.isfinite(base):
        raise ValueError(
            f"an ecq stream cannot have {count} classes from {first}, flags {flags}, segment {segment}, base {base}"
        )
    orientation = Orientation(bool(flags & 1), bool(flags & 2), bool(flags & 4), seed)
    if orientation.transposed:
        rows, columns = columns, rows
    decoder = AdaptiveDecoder(stream[_HEADER.size :])
    lengths = (rows, columns, columns, rows, rows, columns, count * SMALL)
    vectors = [
        decoder.get(size).astype(np.int64) if present >> place & 1 else np.zeros(size, np.int64)
        for place, size in enumerate(lengths)
    ]
    row_codes, step_codes, gains, row_gains, row_classes, column_classes, differences = vectors
    levels = np.zeros((CLASSES, SMALL), np.int64)
    levels[first : first + count] = _unzigzag(differences).reshape(count, SMALL).cumsum(0)
    least = int(_unzigzag(decoder.get(1))[0])
    solution = Solution(
        float(base),
        states,
        segment,
        np.zeros((0, 0), np.int32),
        row_codes=row_codes,
        step_codes=step_codes,
        gain_codes=_unzigzag(gains),
        row_gain_codes=_unzigzag(row_gains),
        row_classes=row_classes + least,
        column_classes=column_classes,
        level_codes=levels,
    )
    for name in ("row_codes", "step_codes", "gain_codes", "row_gain_codes", "level_codes"):
        if np.abs(getattr(solution, name)).max() > 4096:
            raise ValueError(f"{name} of an ecq stream must be below 4096")
    blocks = Blocks.of(solution.row_classes, solution.column_classes)
    ordered = np.empty((columns, rows), np.int32)
    for place, (kind, slices) in enumerate(blocks.slices.items()):
        size = sum(ordered[some].size for some in slices)
        group = decoder.get(size, low_bits(kind), escape(kind), follows=place > 0)
        done = 0
        for some in slices:
            shape = ordered[some].shape
            ordered[some] = group[done : done + ordered[some].size].reshape(shape)
            done += ordered[some].size
    decoder.finish()
    solution.magnitudes = blocks.unsort(ordered)
    return solution, orientation


def _zigzag(values: NDArray[np.integer]) -> Classes:
    return np.where(values < 0, -2 * values - 1, 2 * values).astype(np.int64)


def _unzigzag(values: NDArray[np.integer]) -> Classes:
    return np.where(values & 1, -(values + 1) // 2, values // 2).astype(np.int64)
