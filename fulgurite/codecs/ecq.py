r"""Entropy-coded quantisation: any real rate, near the Gaussian bound, weighted by what errors cost.

    hessian, row weights -> steps; weight -> trellis over rows, error feedback over columns -> magnitudes
                                                     magnitudes -> adaptive arithmetic coder -> bytes

A uniform quantiser with an entropy coder is 1.53 dB (a quarter of a bit) from the bound at high rates; a trellis
of 8 states wins back 1.1 dB of these and one of 256 states 1.3 dB, at any rate. There is no codebook and no
group scale: what is stored beside the magnitudes are a few bits for each row and column. Outliers cost
the bits that they need and widen nobody's step.

References: Marcellin and Fischer, "Trellis coded quantization", IEEE Trans. Commun. 38(1), 1990, and Fischer and Wang,
"Entropy-constrained trellis-coded quantization", IEEE Trans. Inf. Theory 38(2), 1992; "WaterSIC", ICML 2026,
https://arxiv.org/abs/2603.04956, for steps from the hessian's Cholesky factor and shrinkage. Differs from these: the
trellis runs down each column, so that it is decided before the column's error is fed onwards; one
table of probabilities for all its states (see ``_trellis``); classes of rows and columns in place of their variances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.codecs._ecq_assign import Assignment
from fulgurite.codecs._ecq_fit import SHORTEST, Search
from fulgurite.codecs._ecq_solution import (
    GAIN_LIMIT,
    GAIN_STEPS,
    coded_values,
    scales,
)
from fulgurite.codecs._ecq_stream import Orientation, read_stream, write_stream
from fulgurite.codecs._hessian import weighted_error
from fulgurite.codecs._trellis import STATES
from fulgurite.codecs.base import Codec, Encoded, as_matrix, dtype_name, restore
from fulgurite.transforms import rotate, unrotate

LOWEST_RATE, HIGHEST_RATE = 0.1, 8.0
_LADDER = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
_TOLERANCE = 0.003  # of the rate
_DRAFT_STATES = 8  # a sixth of the time of 256, and 0.25 dB of the error, at all rates alike
_SMALL = 1 << 14  # weights that take no time to code twice
_FEW_ROWS = 32  # a matrix with fewer rows than this and more columns is coded transposed where it can be


@dataclass(frozen=True)
class EcqCodec(Codec):
    """Quantise by a trellis, feed errors onwards, code the result by its statistics.

    Args:
        rate: Bits per weight to come out at, 0.1 to 8, everything included; a weight so small that its
            side information alone is more takes that.
        states: Of the trellis: 4 to 256 by powers of two, or 1 for a scalar quantiser with a dead zone. More states
            take proportionally longer to encode and the same time to decode.
        damping: Share of the hessian's mean diagonal that is added to its diagonal.
        rotate: Apply a random Hadamard rotation to the matrix before coding: to its inputs, or to inputs and
            outputs. Row weights are not used where outputs are rotated.
        seed: Of the rotation.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> encoded = EcqCodec(rate=2.0).encode(torch.randn(512, 512))
        >>> round(encoded.bits_per_weight, 1)
        2.0
    """

    name: ClassVar[str] = "ecq"
    # a gain of a column does what one of the rows before it does, or a norm's weight: training both would pay twice
    continuous: ClassVar[tuple[str, ...]] = ("row_gain",)
    one_thread: ClassVar[bool] = True
    rate: float = 2.0
    states: int = 32
    damping: float = 0.01
    rotate: Literal["no", "inputs", "both"] = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise ValueError(
                f"rate must be in [{LOWEST_RATE}, {HIGHEST_RATE:g}] bits per weight, got {self.rate}"
            )
        if self.states not in STATES:
            raise ValueError(f"states must be one of {', '.join(map(str, STATES))}, got {self.states}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")
        if self.rotate not in ("no", "inputs", "both"):
            raise ValueError(f"rotate must be no, inputs or both, got {self.rotate!r}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        stream = self._stream(matrix, hessian, row_weight)
        if hessian is not None and len(matrix) < SHORTEST and matrix.numel() <= _SMALL:
            stream = self._better(stream, self._stream(matrix, None, None), matrix, hessian, row_weight)
        return Encoded(
            self.name,
            tuple(weight.shape),
            dtype_name(weight.dtype),
            {"stream": stream.to(weight.device)},
        )

    def _stream(self, matrix: Tensor, hessian: Tensor | None, row_weight: Tensor | None) -> Tensor:
        orientation = Orientation(
            transposed=hessian is None and len(matrix) < min(_FEW_ROWS, matrix.shape[1]),
            rotated_inputs=self.rotate != "no",
            rotated_outputs=self.rotate == "both",
            seed=self.seed,
        )
        if orientation.rotated_inputs:
            matrix = rotate(matrix, self.seed)
            hessian = None if hessian is None else rotate(rotate(hessian, self.seed).T, self.seed)
        if orientation.rotated_outputs:
            matrix, row_weight = rotate(matrix.T, self.seed + 1).T, None
        if orientation.transposed:
            matrix, row_weight = (
                matrix.T,
                None,
            )  # fewer than 32 rows: their weights are worth less than a trellis
        search = Search(matrix, hessian, row_weight, self.states, self.damping, self.rate)
        return _at_rate(search, self.rate, orientation)

    def _better(
        self, fitted: Tensor, plain: Tensor, matrix: Tensor, hessian: Tensor, row_weight: Tensor | None
    ) -> Tensor:
        """Of two streams the one that fits the rate and has less weighted error, else the better trade.

        A few rows take more bits for the steps of their columns than for their codes, and may lose by a fit to the
        hessian: a network's token types are two rows.
        """

        def judged(stream: Tensor) -> tuple[bool, float]:
            coded = self.decode(Encoded(self.name, tuple(matrix.shape), "float32", {"stream": stream}))
            weights = 1.0 if row_weight is None else row_weight.to(matrix)[:, None].sqrt()
            error = weighted_error((coded.to(matrix.device) - matrix) * weights, hessian)
            bits, logs = 8 * stream.numel() / matrix.numel(), math.log2(error + 1e-300) / 2
            fits = bits <= (1 + _TOLERANCE) * self.rate
            return not fits, logs if fits else bits + logs

        return min(fitted, plain, key=judged)

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        columns = encoded.numel // rows
        if "stream" in encoded.tensors:
            encoded = cls.expanded(encoded)
        tensors = encoded.tensors
        matrix = tensors["values"] * tensors["column_gain"] * tensors["row_gain"][:, None]
        transposed, inputs, outputs, seed = (int(encoded.meta[key]) for key in _ORIENTATION)
        if transposed:
            matrix = matrix.T
        if outputs:
            matrix = unrotate(matrix.T, seed + 1).T
        if inputs:
            matrix = unrotate(matrix, seed)
        return restore(matrix.reshape(rows, columns), encoded)

    @override
    @classmethod
    def expanded(cls, encoded: Encoded) -> Encoded:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        solution, orientation = read_stream(encoded.tensors["stream"], rows, encoded.numel // rows)
        device = encoded.tensors["stream"].device
        tensors = {
            "values": coded_values(solution).T.contiguous(),
            "column_gain": scales(solution.gain_codes, GAIN_STEPS),
            "row_gain": scales(solution.row_gain_codes, GAIN_STEPS),
        }
        flags = (
            orientation.transposed,
            orientation.rotated_inputs,
            orientation.rotated_outputs,
            orientation.seed,
        )
        return replace(
            encoded,
            tensors={name: part.to(device) for name, part in tensors.items()},
            meta=dict(zip(_ORIENTATION, map(int, flags), strict=True)),
        )

    @override
    @classmethod
    def compacted(cls, encoded: Encoded, trained: Mapping[str, Tensor]) -> Encoded:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        solution, orientation = read_stream(encoded.tensors["stream"], rows, encoded.numel // rows)
        if "column_gain" in trained:
            solution.gain_codes = _gain_codes(trained["column_gain"])
        if "row_gain" in trained:
            solution.row_gain_codes = _gain_codes(trained["row_gain"])
        stream = write_stream(solution, orientation)
        return encoded.with_tensors(stream=stream.to(encoded.tensors["stream"].device))

    @override
    @classmethod
    def assigner(cls, encoded: Encoded) -> EcqAssigner:
        return EcqAssigner(encoded)

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(replace(self, rate=rate) for rate in _LADDER)

    @override
    def at_rate(self, bits_per_weight: float) -> EcqCodec:
        return replace(self, rate=min(HIGHEST_RATE, max(LOWEST_RATE, bits_per_weight)))

    @override
    def draft(self) -> EcqCodec:
        return replace(self, states=min(self.states, _DRAFT_STATES))

    @override
    def relaxed(self, severe: bool) -> EcqCodec | None:
        if self.rate >= HIGHEST_RATE:
            return None
        more = max(0.1, 0.1 * self.rate) if not severe else max(0.5, 0.25 * self.rate)
        return replace(self, rate=min(HIGHEST_RATE, round(self.rate + more, 3)))


class EcqAssigner:
    """Chooses the magnitudes of one weight anew; see ``Assigner``."""

    def __init__(self, encoded: Encoded) -> None:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        solution, self._orientation = read_stream(encoded.tensors["stream"], rows, encoded.numel // rows)
        self._encoded = encoded
        self._assignment = Assignment(solution)

    def assign(self, target: Tensor) -> Tensor:
        """Nearest values, ``[out, in]`` as the coded matrix lies."""
        return self._assignment.assign(target.T).T.contiguous().to(target.device)

    def finish(self, target: Tensor) -> Encoded:
        """The weight with its new codes."""
        solution = replace(self._assignment.solution, magnitudes=self._assignment.finish(target.T))
        stream = write_stream(solution, self._orientation)
        return self._encoded.with_tensors(stream=stream.to(self._encoded.tensors["stream"].device))


_ORIENTATION = ("transposed", "rotated_inputs", "rotated_outputs", "seed")


def _gain_codes(gains: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    logs = torch.log2(gains.detach().double().cpu().clamp_min(1e-6)) * GAIN_STEPS
    return logs.round().clamp(-GAIN_LIMIT, GAIN_LIMIT).long().numpy()


def _at_rate(search: Search, rate: float, orientation: Orientation) -> Tensor:
    """The stream with the least error among those tried that do not exceed the rate.

    Where the search went astray, as it may on a few weights that are all alike, the best trade of bits for
    error wins, bits at 6.02 dB each.
    """
    numel = search.rows * search.columns
    if search.is_zero:
        return write_stream(replace(search.run(0.0)[0], base=0.0), orientation)
    tried: list[tuple[float, float, Tensor]] = []
    aim = rate
    for _ in range(_ATTEMPTS):
        solution = search.at_entropy(aim)
        stream = write_stream(solution, orientation)
        found = 8 * stream.numel() / numel
        tried.append((found, math.log2(solution.error + 1e-300) / 2, stream))
        aim = max(0.3 * aim, aim - (found - rate))
        if abs(found - rate) <= _TOLERANCE * rate or aim < _LEAST_ENTROPY:
            break
    fair = min(bits + error for bits, error, _ in tried) + _ASTRAY
    fitting = [entry for entry in tried if entry[0] <= (1 + _TOLERANCE) * rate and entry[0] + entry[1] < fair]
    if fitting:
        return min(fitting, key=lambda entry: entry[1])[2]
    return min(tried, key=lambda entry: entry[0] + entry[1])[2]


_ATTEMPTS = 4
_ASTRAY = 1.5  # bits beyond the best trade
_LEAST_ENTROPY = 0.01
