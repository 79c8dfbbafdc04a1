"""Half-precision floats: what a weight becomes that no stage selects.

weight -> fp16 (or bf16 where fp16 would overflow) -> values
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from fulgurite.codecs.base import DTYPES, Codec, Encoded, as_matrix, dtype_name, to_half


@dataclass(frozen=True)
class Float16Codec(Codec):
    """Store each weight in 16 bits.

    fp16, or bf16 where fp16's range would lose more than bf16's precision.

    Example:
        >>> Float16Codec().encode(torch.randn(3, 5)).bits_per_weight
        16.0
    """

    name: ClassVar[str] = "fp16"
    continuous: ClassVar[tuple[str, ...]] = ("values",)
    one_thread: ClassVar[bool] = True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        values = to_half(matrix.reshape(weight.shape))
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), {"values": values})

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        values = encoded.tensors["values"]
        if tuple(values.shape) != encoded.shape:
            raise ValueError(f"values must have shape {encoded.shape}, got {tuple(values.shape)}")
        return values.to(DTYPES[encoded.dtype])
