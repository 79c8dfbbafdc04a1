r"""Drop and rescale: most of what fine-tuning changed is left out at random, the rest made up for it.

    delta -> mask of a seed -> survivors * scale of the row -> 16-bit floats -> values
                                                            \-> few bits ----> codes, scale, floor

For the difference between a fine-tuned network and its base: see ``cascade.base``. The mask takes the four bytes of
its seed, whatever it keeps; that is what random choice has over a choice by magnitude. On weights themselves it is
the worst choice there is: half of them dropped leaves as much error as there is weight.

References: Yu et al., "Language Models are Super Mario" (DARE), ICML 2024, https://arxiv.org/abs/2311.03099; Deng et
al., "DARE the Extreme" (DAREx-q), ICLR 2025, https://arxiv.org/abs/2410.09344, for a scale below ``1 / (1 - drop)``.
Differs from these: the scale is not searched but solved for, row by row, as the one with the least error of the
layer's outputs; survivors may have few bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.codecs._hessian import input_costs
from fulgurite.codecs._seed_mask import random_mask
from fulgurite.codecs._survivors import check_bits, put_back, store_values, with_places
from fulgurite.codecs.base import Codec, Encoded, Scalar, as_matrix, dtype_name

_LADDER = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.0)
_SEVERE = 3  # steps of the ladder after a severe loss


@dataclass(frozen=True)
class DareCodec(Codec):
    """Keep a random share of a delta and scale it up for what is dropped.

    Args:
        drop: Probability in [0, 1) that an entry is dropped.
        rescale: ``fit``: each row by the factor in [0, 1 / (1 - drop)] that leaves the layer's outputs the least
            error, where there is a hessian of its inputs; ``unbiased``, DARE's own: all by 1 / (1 - drop), which
            leaves them right on average.
        bits: Of a survivor: 16, or 1 to 8 for a sign and even levels with a scale a row.
        seed: Of all masks; each weight's own follows from it and from the weight's name.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> encoded = DareCodec(drop=0.9).encode(torch.randn(256, 256))
        >>> round(encoded.bits_per_weight, 1)  # 16 bits for each tenth entry
        1.6
    """

    name: ClassVar[str] = "dare"
    continuous: ClassVar[tuple[str, ...]] = ("values", "scale")
    drop: float = 0.9
    rescale: Literal["fit", "unbiased"] = "fit"
    bits: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must be in [0, 1), got {self.drop}")
        if self.rescale not in ("fit", "unbiased"):
            raise ValueError(f"rescale must be fit or unbiased, got {self.rescale!r}")
        check_bits(self.bits)
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")

    @property
    @override
    def uses_hessian(self) -> bool:
        return self.rescale == "fit" and self.drop > 0

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        kept = random_mask(matrix.shape[0], matrix.shape[1], self.drop, self.seed).to(weight.device)
        factor = torch.full((len(matrix), 1), 1 / (1 - self.drop), device=weight.device)
        if self.uses_hessian and hessian is not None:
            factor = _fitted(matrix, kept, hessian).clamp(torch.zeros_like(factor), factor)
        costs = None if hessian is None else input_costs(hessian)
        seed = torch.tensor([self.seed >> shift & 255 for shift in (0, 8, 16, 24)], dtype=torch.uint8)
        tensors = {"seed": seed.to(weight.device)}
        tensors |= store_values(matrix * factor, kept, self.bits, costs)
        meta: dict[str, Scalar] = {"drop": self.drop, "bits": self.bits}
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, meta)

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        return put_back(encoded if "places" in encoded.tensors else cls.expanded(encoded))

    @override
    @classmethod
    def expanded(cls, encoded: Encoded) -> Encoded:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        seed, drop = encoded.tensors["seed"], float(encoded.meta["drop"])
        if seed.shape != (4,) or seed.dtype != torch.uint8:
            raise ValueError(f"a seed is 4 bytes, got {list(seed.shape)} of {seed.dtype}")
        if not 0 <= drop < 1:
            raise ValueError(f"drop must be in [0, 1), got {drop}")
        number = sum(byte << 8 * place for place, byte in enumerate(seed.tolist()))
        kept = random_mask(rows, encoded.numel // rows, drop, number).to(seed.device)
        return with_places(encoded, kept, int(encoded.meta["bits"]))

    @override
    def bind(
        self,
        weights: Mapping[str, Tensor],
        hessians: Mapping[str, Tensor] | None = None,
        row_weights: Mapping[str, Tensor] | None = None,
    ) -> Mapping[str, Codec]:
        return {name: replace(self, seed=zlib.crc32(name.encode(), self.seed)) for name in weights}

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(replace(self, drop=drop) for drop in _LADDER)

    @override
    def relaxed(self, severe: bool) -> DareCodec | None:
        lower = [drop for drop in _LADDER if drop < self.drop]
        return replace(self, drop=lower[: _SEVERE if severe else 1][-1]) if lower else None


def _fitted(delta: Tensor, kept: Tensor, hessian: Tensor) -> Tensor:
    """The factor ``c`` of each row, ``[out, 1]``, with the least ``(d - c m) H (d - c m)^T``; ``m`` stays of ``d``."""
    left = delta * kept
    seen = left @ hessian.to(left)
    return ((seen * delta).sum(1) / (seen * left).sum(1).clamp_min(1e-30))[:, None]
