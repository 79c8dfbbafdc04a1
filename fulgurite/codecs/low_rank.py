r"""Truncated singular value decomposition of a weight, in the metric of what its errors cost.

    weight, hessian, row weights -> whitened SVD -> rank -> left [out, r] -> inner codec -> left_*
                                                         \-> right [r, in], fitted to it -> inner codec -> right_*

The whitening and its reference are those of ``_whitened``; the truncation's cost is the discarded energy exactly.

A rank saves bytes while ``rank < out * in / (out + in) * share``, ``share`` being 1 if a factor's entry takes as many
bits as one of the whole weight would. Half of a square matrix's singular values are the break-even, and trained
weights hold far more than half of their energy in half of them only where inputs are strongly correlated. A rank
that does not save against the inner codec on the whole weight is not used: the weight is then coded whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.codecs._nested import (
    NestedCodec,
    check_plain,
    decode_part,
    encode_factor,
    encode_part,
    flatten,
)
from fulgurite.codecs._whitened import Spectrum, decompose, right_given_left
from fulgurite.codecs.base import Codec, Encoded, Scalar, as_matrix, dtype_name, restore
from fulgurite.codecs.float16 import Float16Codec

_LADDER = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_TOP_RANK, _TOP_BITS, _LEAST_SHARE = 4096, 16.0, 1e-4
_WHOLE, _LEFT, _RIGHT = "whole", "left", "right"


@dataclass(frozen=True)
class LowRankCodec(NestedCodec):
    """Store a weight as the product of two thin matrices.

    One of the first four settings chooses the rank; where none is given it is that of 8 bits per weight, half of
    the break-even in 16-bit factors.

    Args:
        rank: Singular values to keep.
        energy: Share of the weighted energy to keep, above 0 and at most 1.
        error: Weighted error of the truncation at most, as a share of the weighted energy; coding adds its own.
        bits_per_weight: The rank that fits into so many bits. An inner codec of any rate fills them.
        inner: Codes both factors, or the whole weight where no rank saves anything.
        damping: Share of the hessian's mean diagonal that is added to its diagonal.

    Raises:
        ValueError: If more than one of the first four is given, one is out of range, or the inner codec holds others.

    Example:
        >>> encoded = LowRankCodec(rank=4).encode(torch.randn(64, 64))
        >>> encoded.bits_per_weight  # 16 bits for 4 * (64 + 64) of 4096 weights
        2.0
    """

    name: ClassVar[str] = "low_rank"
    prefixes: ClassVar[tuple[str, ...]] = (_LEFT, _RIGHT, _WHOLE)
    rows_alike: ClassVar[bool] = False  # some rows have another spectrum than all
    rank: int | None = None
    energy: float | None = None
    error: float | None = None
    bits_per_weight: float | None = None
    inner: Codec = Float16Codec()  # noqa: RUF009 (frozen)
    damping: float = 0.01

    def __post_init__(self) -> None:
        given = {
            name: value
            for name in ("rank", "energy", "error", "bits_per_weight")
            if (value := getattr(self, name)) is not None
        }
        if len(given) > 1:
            raise ValueError(f"one of rank, energy, error and bits_per_weight may be given, got {given}")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ValueError(f"energy must be above 0 and at most 1, got {self.energy}")
        if self.error is not None and not 0 <= self.error < 1:
            raise ValueError(f"error must be in [0, 1), got {self.error}")
        if self.bits_per_weight is not None and not self.bits_per_weight > 0:
            raise ValueError(f"bits_per_weight must be above 0, got {self.bits_per_weight}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")
        check_plain(inner=self.inner)

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        budget = self._budget
        if budget is not None and not self._may_save(matrix, budget):
            parts = {_WHOLE: self._whole(matrix, hessian, row_weight, budget)}
        else:
            spectrum = decompose(matrix, hessian, row_weight, self.damping)
            parts = self._parts(spectrum, hessian, row_weight, budget)
            if budget is None:
                whole = self._whole(matrix, hessian, row_weight, None)
                if whole.num_bytes <= sum(part.num_bytes for part in parts.values()):
                    parts = {_WHOLE: whole}
        tensors, meta = flatten(parts)
        own: dict[str, Scalar] = {"rank": parts[_RIGHT].shape[0] if _RIGHT in parts else 0}
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, own | meta)

    @property
    def _budget(self) -> float | None:
        """Bits per weight to come out at, where these choose the rank."""
        if self.rank is self.energy is self.error is None:
            return 8.0 if self.bits_per_weight is None else self.bits_per_weight
        return None

    def _parts(
        self, spectrum: Spectrum, hessian: Tensor | None, row_weight: Tensor | None, budget: float | None
    ) -> dict[str, Encoded]:
        rank, inner = self._chosen(spectrum, budget)
        return code_factors(spectrum, rank, inner, hessian, row_weight)

    def _chosen(self, spectrum: Spectrum, budget: float | None) -> tuple[int, Codec]:
        """The rank, and the codec of the factors."""
        rows, columns = spectrum.matrix.shape
        if budget is not None:
            bits = budget * rows * columns / (rows + columns)  # for each entry of a pair of singular vectors
            rank = min(spectrum.rank, max(1, int(bits / bits_of(self.inner))))
            filling = self.inner.at_rate(bits / rank)
            return rank, self.inner if filling is None else filling
        if self.rank is not None:
            return min(self.rank, spectrum.rank), self.inner
        lost = spectrum.lost()
        allowed = self.error if self.energy is None else 1 - self.energy
        assert allowed is not None
        # rounding must not ask for one more where all of the energy is wanted
        enough = (lost <= (allowed + 1e-14) * spectrum.energy).nonzero()
        return min(spectrum.rank, max(1, int(enough[0]))), self.inner

    def _may_save(self, matrix: Tensor, budget: float) -> bool:
        """Whether a rank of the budget takes fewer bytes than the whole weight by the inner codec."""
        rows, columns = matrix.shape
        bits = bits_of(self.inner)
        return budget < bits and (rows + columns) * max(bits, 1.0) < bits * rows * columns

    def _whole(
        self, matrix: Tensor, hessian: Tensor | None, row_weight: Tensor | None, budget: float | None
    ) -> Encoded:
        asked = None if budget is None else self.inner.at_rate(budget)
        return encode_part(self.inner if asked is None else asked, matrix, hessian, row_weight)

    @override
    @classmethod
    def shapes(cls, encoded: Encoded) -> dict[str, tuple[int, ...]]:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        columns, rank = encoded.numel // rows, int(encoded.meta["rank"])
        return {_LEFT: (rows, rank), _RIGHT: (rank, columns), _WHOLE: (rows, columns)}

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        parts = cls.parts_of(encoded)
        if _WHOLE in parts:
            return restore(decode_part(parts[_WHOLE]), encoded)
        return restore(decode_part(parts[_LEFT]) @ decode_part(parts[_RIGHT]), encoded)

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(self.at_rate(bits) for bits in _LADDER)

    @override
    def at_rate(self, bits_per_weight: float) -> LowRankCodec:
        return replace(self, rank=None, energy=None, error=None, bits_per_weight=bits_per_weight)

    @override
    def draft(self) -> LowRankCodec:
        return replace(self, inner=self.inner.draft())

    @override
    def relaxed(self, severe: bool) -> LowRankCodec | None:
        factor = 1.5 if severe else 1.25
        if self.rank is not None:
            more = min(_TOP_RANK, math.ceil(factor * self.rank))
            return replace(self, rank=more) if more > self.rank else None
        if self.error is not None or self.energy is not None:
            lost = self.error if self.energy is None else 1 - self.energy
            assert lost is not None
            if lost <= _LEAST_SHARE:
                return None
            less = lost / (4 if severe else 2)
            return (
                replace(self, error=less) if self.energy is None else replace(self, energy=round(1 - less, 9))
            )
        bits = self._budget
        assert bits is not None
        return self.at_rate(min(_TOP_BITS, round(factor * bits, 3))) if bits < _TOP_BITS else None


def code_factors(
    spectrum: Spectrum, rank: int, codec: Codec, hessian: Tensor | None, row_weight: Tensor | None
) -> dict[str, Encoded]:
    """Both factors, coded: the left one first, the right one fitted to what became of it.

    An error in the left factor goes through the right one, which makes its hessian; one in the right goes out
    through the left, whose columns' energies are its row weights.
    """
    left, right = spectrum.factors(rank)
    met = right @ right.T if hessian is None else right @ hessian.double() @ right.T
    coded_left = encode_factor(codec, left, met.float(), row_weight)
    found = decode_part(coded_left)
    right = right_given_left(found, spectrum.matrix, spectrum.scale)
    energies = (found.double() * spectrum.scale[:, None]).square().sum(0).float()
    return {_LEFT: coded_left, _RIGHT: encode_factor(codec, right, hessian, energies)}


@cache
def bits_of(codec: Codec) -> float:
    """Bits per entry that a codec takes, about: its rate where it has one, else what a small matrix takes."""
    rate = getattr(codec, "rate", None)
    if isinstance(rate, int | float):
        return float(rate)
    return codec.encode(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).bits_per_weight
