r"""A codec and a correction of low rank: what it gets wrong most, in the metric of what errors cost.

    weight - correction -> inner codec -> inner_*            \
    weight - decoded -> whitened SVD -> left, right -> factors' codec -> left_*, right_*      iterations times

With a sparse codec as the inner one it is low rank plus sparse. Whether bytes are better spent on a correction or on
more bits for the inner codec is a question of the spectrum of its error: that of a good quantiser is flat, and then
every singular value costs more than it mends.

References: Zhang et al., "LQER: Low-Rank Quantization Error Reconstruction for LLMs", ICML 2024,
https://arxiv.org/abs/2402.02446, section 3; Saha et al., "Compressing Large Language Models using Low Rank and Low
Precision Decomposition" (CALDERA), NeurIPS 2024, https://arxiv.org/abs/2405.18886, algorithm 1.
Differs from both: either may come first; the metric may weight rows; the round with the least error is kept, as rounds
do not always gain; a codec of any rate can be asked for what the correction leaves of a budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.codecs._nested import (
    NestedCodec,
    check_plain,
    decode_part,
    encode_part,
    flatten,
    metric_cost,
)
from fulgurite.codecs._whitened import decompose
from fulgurite.codecs.base import Codec, Encoded, Scalar, as_matrix, dtype_name, restore
from fulgurite.codecs.float16 import Float16Codec
from fulgurite.codecs.low_rank import bits_of, code_factors
from fulgurite.codecs.uniform import UniformCodec

_INNER, _LEFT, _RIGHT = "inner", "left", "right"
_LEAST_BITS, _TOP_BITS = 0.1, 16.0


@dataclass(frozen=True)
class LowRankPlusCodec(NestedCodec):
    """Code a weight with another codec and add a matrix of low rank that corrects it.

    Args:
        rank: Of the correction; a weight on which it would take more than 16 bits per weight has none.
        inner: Codes what the correction leaves of the weight.
        factors: Codes the two factors of the correction.
        start: What is fitted to the weight itself, the other one to what it leaves: ``inner``, or ``low_rank`` where
            few directions hold much of the energy.
        iterations: Rounds in which one is fitted to the other; the best is kept.
        bits_per_weight: Of both together, for an inner codec of any rate: it gets what the correction leaves, or all of
            it where the error is less without a correction.
        damping: Share of the hessian's mean diagonal that is added to its diagonal.

    Raises:
        ValueError: If a setting is out of range, or one of the codecs holds others.

    Example:
        >>> codec = LowRankPlusCodec(rank=2, inner=UniformCodec(bits=2, group_size=64))
        >>> codec.encode(torch.randn(64, 64)).bits_per_weight  # 2.5, and 16 for 2 * (64 + 64) of 4096 weights
        3.5
    """

    name: ClassVar[str] = "low_rank_plus"
    prefixes: ClassVar[tuple[str, ...]] = (_INNER, _LEFT, _RIGHT)
    rows_alike: ClassVar[bool] = False
    rank: int = 4
    inner: Codec = UniformCodec(bits=2, group_size=64, search=True)  # noqa: RUF009 (frozen)
    factors: Codec = Float16Codec()  # noqa: RUF009 (frozen)
    start: Literal["inner", "low_rank"] = "inner"
    iterations: int = 2
    bits_per_weight: float | None = None
    damping: float = 0.01

    def __post_init__(self) -> None:
        for name in ("rank", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.start not in ("inner", "low_rank"):
            raise ValueError(f"start must be inner or low_rank, got {self.start!r}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")
        check_plain(inner=self.inner, factors=self.factors)
        if self.bits_per_weight is not None:
            if not self.bits_per_weight > 0:
                raise ValueError(f"bits_per_weight must be above 0, got {self.bits_per_weight}")
            if self.inner.at_rate(2.0) is None:
                raise ValueError(
                    f"bits_per_weight needs an inner codec of any rate, such as ecq, got {self.inner.name}"
                )

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        rank = min(self.rank, *matrix.shape)
        best, least = {_INNER: encode_part(self._left_over(0.0), matrix, hessian, row_weight)}, math.inf
        if self.bits_per_weight is not None:
            least = metric_cost(matrix - decode_part(best[_INNER]), hessian, row_weight)
        taken = rank * sum(matrix.shape) * bits_of(self.factors) / matrix.numel()  # about: bits per weight
        correction = torch.zeros_like(matrix)
        if self.start == "low_rank":
            first = decompose(matrix, hessian, row_weight, self.damping).factors(rank)
            correction = (first[0] @ first[1]).float()
        for _ in range(self.iterations if self._pays(matrix, rank, taken) else 0):
            inner = encode_part(self._left_over(taken), matrix - correction, hessian, row_weight)
            error = matrix - decode_part(inner)
            if not error.any():
                break
            spectrum = decompose(error, hessian, row_weight, self.damping)
            factors = code_factors(spectrum, min(rank, spectrum.rank), self.factors, hessian, row_weight)
            taken = 8 * sum(part.num_bytes for part in factors.values()) / matrix.numel()
            correction = _product(factors)
            cost = metric_cost(error - correction, hessian, row_weight)
            if cost < least:
                best, least = {_INNER: inner, **factors}, cost
        tensors, meta = flatten(best)
        own: dict[str, Scalar] = {"rank": best[_RIGHT].shape[0] if _RIGHT in best else 0}
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, own | meta)

    def _left_over(self, taken: float) -> Codec:
        """The inner codec, at what ``taken`` bits per weight leave of the budget where there is one."""
        if self.bits_per_weight is None:
            return self.inner
        asked = self.inner.at_rate(max(_LEAST_BITS, self.bits_per_weight - taken))
        assert asked is not None  # asked for when the settings were checked
        return asked

    def _pays(self, matrix: Tensor, rank: int, taken: float) -> bool:
        """Whether a correction in 16 bits is smaller than the weight in 16 bits, and fits the budget."""
        fits = self.bits_per_weight is None or taken + _LEAST_BITS <= self.bits_per_weight
        return fits and rank * sum(matrix.shape) < matrix.numel()

    @override
    @classmethod
    def shapes(cls, encoded: Encoded) -> dict[str, tuple[int, ...]]:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        columns, rank = encoded.numel // rows, int(encoded.meta["rank"])
        return {_INNER: (rows, columns), _LEFT: (rows, rank), _RIGHT: (rank, columns)}

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        parts = cls.parts_of(encoded)
        values = decode_part(parts[_INNER])
        return restore(values + _product(parts) if _RIGHT in parts else values, encoded)

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(
            replace(self, inner=inner, bits_per_weight=None)
            if self.bits_per_weight is None
            else replace(self, bits_per_weight=float(getattr(inner, "rate", self.bits_per_weight)))
            for inner in self.inner.candidates()
        )

    @override
    def at_rate(self, bits_per_weight: float) -> LowRankPlusCodec | None:
        return None if self.bits_per_weight is None else replace(self, bits_per_weight=bits_per_weight)

    @override
    def draft(self) -> LowRankPlusCodec:
        return replace(self, inner=self.inner.draft(), factors=self.factors.draft())

    @override
    def relaxed(self, severe: bool) -> LowRankPlusCodec | None:
        if self.bits_per_weight is not None:
            more = min(_TOP_BITS, round((1.25 if severe else 1.1) * self.bits_per_weight, 3))
            return replace(self, bits_per_weight=more) if more > self.bits_per_weight else None
        inner = self.inner.relaxed(severe)
        return None if inner is None else replace(self, inner=inner)


def corrected(
    encoded: Encoded,
    correction: Tensor,
    rank: int,
    factors: Codec,
    hessian: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Encoded:
    """An encoded weight with a correction of low rank beside it, truncated in its metric.

    Args:
        encoded: Of a codec that holds no other; its bytes stay as they are.
        correction: What to add to the decoded weight, ``[out, in]``.
        rank: Of what is kept of it.
        factors: Codes the factors.
        hessian: As ``Codec.encode`` takes it.
        row_weight: As ``Codec.encode`` takes it.
    """
    matrix = as_matrix(correction, hessian, row_weight)
    spectrum = decompose(matrix, hessian, row_weight)
    parts = {
        _INNER: encoded,
        **code_factors(spectrum, min(rank, spectrum.rank), factors, hessian, row_weight),
    }
    tensors, meta = flatten(parts)
    own: dict[str, Scalar] = {"rank": parts[_RIGHT].shape[0]}
    return Encoded(LowRankPlusCodec.name, encoded.shape, encoded.dtype, tensors, own | meta)


def _product(parts: Mapping[str, Encoded]) -> Tensor:
    return decode_part(parts[_LEFT]) @ decode_part(parts[_RIGHT])
