r"""Group-wise uniform scalar quantiser.

    weight -> groups of g -> (w - zero) / step -> round -> pack_bits | ANS -> codes
                          \-> min, max ---------------------------------> zero, step

References: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, https://arxiv.org/abs/1712.05877, section 2.1; with
``error_feedback``, Frantar et al., "GPTQ", ICLR 2023, https://arxiv.org/abs/2210.17323, algorithm 1.
Differs from the first: one (zero, step) pair per group of inputs, not per tensor; ``zero`` is the
float that code 0 stands for, so zero itself need not be a level. From the second: the grids are those
of the weight as it was given, which leaves the order of the columns free (``act_order`` with
``static_groups`` in the GPTQ programs): 6 to 18 % less error on trained layers than grids fitted on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.codecs._hessian import error_feedback as feed_back
from fulgurite.codecs._hessian import input_costs
from fulgurite.codecs.base import DTYPES, Codec, Encoded, as_matrix, dtype_name, to_half
from fulgurite.coding import decode_symbols, encode_symbols, pack_bits, unpack_bits

_CHUNK = (1 << 15) - 1  # weights at a time: they stay in cache, and torch runs so few on one thread
_CANDIDATES = 16  # shares of the range that ``search`` tries, from 1 down to 1/2


@dataclass(frozen=True)
class UniformCodec(Codec):
    """Round each group of weights to ``2**bits`` evenly spaced levels.

    Args:
        bits: Width of one code, 1 to 8.
        group_size: Consecutive inputs that share one step; a row's last group may be shorter.
        symmetric: Centre the levels on zero, which saves the zero: one fp16 number per group, not two.
        search: Narrow each group's range to the share of it with the least squared error, weighted by
            the hessian's diagonal where there is one.
        entropy: Code the codes by their histogram (ANS) where that takes fewer bytes.
        error_feedback: Correct the columns not yet coded for each column's error (GPTQ), where there is a
            hessian. Same bytes, unless ``entropy`` finds other histograms.

    Raises:
        ValueError: If ``bits`` or ``group_size`` is out of range.

    Example:
        >>> encoded = UniformCodec(bits=4, group_size=32).encode(torch.randn(2, 32))
        >>> encoded.bits_per_weight  # 4 bits, plus fp16 zero and step for 32 weights
        5.0
    """

    name: ClassVar[str] = "uniform"
    continuous: ClassVar[tuple[str, ...]] = ("step", "zero")
    bits: int = 4
    group_size: int = 128
    symmetric: bool = False
    search: bool = False
    entropy: bool = False
    error_feedback: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be in [1, 8], got {self.bits}")
        if self.group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {self.group_size}")

    @property
    @override
    def uses_hessian(self) -> bool:
        return self.search or self.error_feedback

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        importance = None
        if self.search and hessian is not None:
            padding = -matrix.shape[1] % self.group_size
            importance = functional.pad(input_costs(hessian), (0, padding)).reshape(-1, self.group_size)
        step, zero = self._grid(matrix, importance)  # as stored: the codes fit the rounded grid
        if self.symmetric:
            zero = self._centred(step)
        if self.error_feedback and hessian is not None:
            codes = self._corrected_codes(matrix, hessian, step, zero)
        else:
            codes = torch.empty(matrix.shape, dtype=torch.uint8, device=matrix.device)
            for rows, some, groups in self._groups(matrix):
                whole = self._round(groups, step[some], zero[some]).reshape(rows.stop - rows.start, -1)
                codes[rows] = whole[:, : matrix.shape[1]]
        tensors = {"codes": pack_bits(codes, self.bits), "step": step}
        entropy = False
        if self.entropy:
            stream = encode_symbols(codes, 1 << self.bits)
            if entropy := stream.numel() < tensors["codes"].numel():
                tensors["codes"] = stream
        if not self.symmetric:
            tensors["zero"] = zero
        meta = {
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
            "entropy": entropy,
        }
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, meta)

    def _corrected_codes(self, matrix: Tensor, hessian: Tensor, step: Tensor, zero: Tensor) -> Tensor:
        """Codes ``[out, in]`` of the weight, each column corrected for the errors of those coded before."""
        steps, zeros = (part.float().reshape(len(matrix), -1).T.contiguous() for part in (step, zero))
        codes = torch.empty(matrix.shape[::-1], dtype=torch.uint8, device=matrix.device)

        def quantise(j: int, column: Tensor) -> Tensor:
            own_step, own_zero = steps[j // self.group_size], zeros[j // self.group_size]
            codes[j] = levels = self._round(column[:, None], own_step, own_zero)[:, 0]
            return levels * own_step + own_zero

        feed_back(matrix, hessian, quantise)
        return codes.T.contiguous()

    def _groups(self, matrix: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Some rows at a time: which rows, which groups of all, and these groups ``[n, g]``.

        All temporaries are of that size, so that encoding takes little more memory than its input.
        """
        padding = -matrix.shape[1] % self.group_size
        per_row = (matrix.shape[1] + padding) // self.group_size
        count = max(1, _CHUNK // (matrix.shape[1] + padding))
        for start in range(0, len(matrix), count):
            rows = slice(start, min(start + count, len(matrix)))
            values = matrix[rows]
            if padding:  # repeats the row's last value: the step does not widen
                values = functional.pad(values[None], (0, padding), mode="replicate")[0]
            yield rows, slice(rows.start * per_row, rows.stop * per_row), values.reshape(-1, self.group_size)

    def _grid(self, matrix: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
        """The 16-bit ``step`` and ``zero`` of each group, ``[groups]`` each."""
        levels = (1 << self.bits) - 1
        ranges = [(groups.amin(1), groups.amax(1)) for _, _, groups in self._groups(matrix)]
        low, high = (torch.cat(ends) for ends in zip(*ranges, strict=True))
        if self.symmetric:
            high = torch.maximum(high.abs(), low.abs())
            low = -high
        step, zero = self._grid_of(low, high, levels)
        if not self.search:
            return step, zero
        best_step, best_zero = step.float(), zero.float()
        best_error = torch.full_like(low, torch.inf)
        middle, half = (low + high) / 2, (high - low) / 2
        for share in torch.linspace(1, 0.5, _CANDIDATES).tolist():
            step, zero = self._grid_of(middle - share * half, middle + share * half, levels)
            total = torch.cat(
                [
                    self._error(groups, step[some], zero[some], importance)
                    for _, some, groups in self._groups(matrix)
                ]
            )
            better = total < best_error
            best_error = torch.where(better, total, best_error)
            best_step = torch.where(better, step.float(), best_step)
            best_zero = torch.where(better, zero.float(), best_zero)
        return to_half(best_step), to_half(best_zero)

    def _error(self, groups: Tensor, step: Tensor, zero: Tensor, importance: Tensor | None) -> Tensor:
        """Squared error of each group on a grid, ``[n]``; ``importance`` is one row's, ``[groups of it, g]``."""
        error = self._round(groups, step, zero).mul_(step.float()[:, None]).add_(zero.float()[:, None])
        error = error.sub_(groups).square_()
        if importance is not None:
            error.view(-1, *importance.shape).mul_(importance)
        return error.sum(1)

    def _grid_of(self, low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        step = to_half((high - low) / levels)
        return step, self._centred(step) if self.symmetric else to_half(low)

    def _centred(self, step: Tensor) -> Tensor:
        return step.float() * (-((1 << self.bits) - 1) / 2)  # as decode computes it

    def _round(self, groups: Tensor, step: Tensor, zero: Tensor) -> Tensor:
        # a constant group has step 0: any divisor gives code 0, which decodes to zero exactly
        divisor = step.float().clamp_min(1e-30)[:, None]
        codes = (groups - zero.float()[:, None]).div_(divisor).round_()
        return codes.clamp_(0, (1 << self.bits) - 1)

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(replace(self, bits=bits) for bits in range(2, 9))

    @override
    def relaxed(self, severe: bool) -> UniformCodec | None:
        if severe or self.group_size <= 32:
            return replace(self, bits=self.bits + 1) if self.bits < 8 else None
        return replace(self, group_size=self.group_size // 2)

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        bits, group_size = int(encoded.meta["bits"]), int(encoded.meta["group_size"])
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        columns = encoded.numel // rows
        padding = -columns % group_size
        groups = (columns + padding) // group_size
        step = encoded.tensors["step"].float().reshape(rows, groups, 1)
        zero = None if encoded.meta["symmetric"] else encoded.tensors["zero"].float().reshape(rows, groups, 1)
        codes = encoded.tensors["codes"]
        if encoded.meta["entropy"]:
            codes = decode_symbols(codes, 1 << bits, encoded.numel)
        elif codes.numel() != math.ceil(encoded.numel * bits / 8):
            raise ValueError(
                f"{encoded.numel} codes of {bits} bits need {math.ceil(encoded.numel * bits / 8)} bytes, "
                f"got {codes.numel()}"
            )
        values = torch.empty(rows, columns, dtype=DTYPES[encoded.dtype], device=codes.device)
        aligned = 8 // math.gcd(8, columns * bits)  # rows that end at a whole byte
        count = aligned * max(1, _CHUNK // (aligned * columns))
        for start in range(0, rows, count):
            stop = min(rows, start + count)
            if encoded.meta["entropy"]:
                whole = codes[start * columns : stop * columns]
            else:
                part = codes[start * columns * bits // 8 : -(-stop * columns * bits // 8)]
                whole = unpack_bits(part, bits, (stop - start) * columns)
            whole = whole.reshape(-1, columns)
            if padding:
                whole = functional.pad(whole, (0, padding))
            grid = step[start:stop]
            decoded = whole.reshape(stop - start, groups, group_size) * grid
            decoded += grid * (-((1 << bits) - 1) / 2) if zero is None else zero[start:stop]
            values[start:stop] = decoded.reshape(stop - start, -1)[:, :columns]
        return values.reshape(encoded.shape)
