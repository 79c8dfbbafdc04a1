"""A codec that holds codecs: the parts of several encoded matrices in one ``Encoded``, and back.

    {left: Encoded, right: Encoded} -> flatten -> tensors left_stream, right_stream; meta left_codec, right_codec
                                       unflatten, which is told their shapes -> {left: Encoded, right: Encoded}

Shapes are not stored: they follow from the whole weight's shape and what its codec says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fulgurite.codecs.base import Codec, Encoded, Scalar
from fulgurite.codecs.float16 import Float16Codec

_DTYPE = "float32"
_CODEC = "codec"


def plain_codecs() -> dict[str, type[Codec]]:
    """The codecs that hold no other, by name."""
    from fulgurite.codecs import CODECS  # the table has the codecs that ask

    return {name: codec for name, codec in CODECS.items() if not issubclass(codec, NestedCodec)}


def check_plain(**codecs: Codec) -> None:
    """Raise if a codec that another is to hold holds one itself.

    Raises:
        ValueError: Names the setting.
    """
    for name, codec in codecs.items():
        if isinstance(codec, NestedCodec):
            raise ValueError(f"{name} must be a codec that holds no other, got {codec.name}")


class _Parts:
    """What refinement may train: the continuous parts of whatever a codec holds, with its prefixes."""

    def __get__(self, instance: object, owner: type[NestedCodec]) -> tuple[str, ...]:
        names = [part for codec in plain_codecs().values() for part in codec.continuous]
        return tuple(f"{prefix}_{part}" for prefix in owner.prefixes for part in dict.fromkeys(names))


class NestedCodec(Codec):
    """A codec whose encoded form is made of those of others."""

    prefixes: ClassVar[tuple[str, ...]] = ("inner",)
    """What its matrices are called."""

    # a descriptor: codecs that are added to the table later are known too
    continuous = _Parts()

    @classmethod
    def shapes(cls, encoded: Encoded) -> dict[str, tuple[int, ...]]:
        """The shape of each matrix that ``encoded`` may have, by its prefix."""
        raise NotImplementedError

    @classmethod
    def parts_of(cls, encoded: Encoded) -> dict[str, Encoded]:
        """The matrices that an encoded weight is made of."""
        return unflatten(encoded, cls.shapes(encoded))

    @classmethod
    def expanded(cls, encoded: Encoded) -> Encoded:
        """Each matrix in the form that its codec decodes faster."""
        known = plain_codecs()
        parts = {prefix: known[part.codec].expanded(part) for prefix, part in cls.parts_of(encoded).items()}
        return _with_parts(encoded, parts)

    @classmethod
    def compacted(cls, encoded: Encoded, trained: Mapping[str, Tensor]) -> Encoded:
        """Each matrix with what was trained of it."""
        known = plain_codecs()
        parts = {}
        for prefix, part in cls.parts_of(encoded).items():
            own = {
                name.removeprefix(f"{prefix}_"): values
                for name, values in trained.items()
                if name.startswith(f"{prefix}_")
            }
            parts[prefix] = known[part.codec].compacted(part, own)
        return _with_parts(encoded, parts)


def flatten(parts: Mapping[str, Encoded]) -> tuple[dict[str, Tensor], dict[str, Scalar]]:
    """Tensors and meta of several matrices under their prefixes."""
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Scalar] = {}
    for prefix, part in parts.items():
        meta[f"{prefix}_{_CODEC}"] = part.codec
        meta |= {f"{prefix}_{name}": value for name, value in part.meta.items()}
        tensors |= {f"{prefix}_{name}": values for name, values in part.tensors.items()}
    return tensors, meta


def unflatten(encoded: Encoded, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Encoded]:
    """The matrices that are there of those that may be.

    Raises:
        ValueError: If a matrix is of a codec that is not known.
    """
    known = plain_codecs()
    found = {}
    for prefix, shape in shapes.items():
        codec = encoded.meta.get(f"{prefix}_{_CODEC}")
        if codec is None:
            continue
        if codec not in known:
            raise ValueError(f"{prefix}_codec must be one of {', '.join(known)}, got {codec!r}")
        start = f"{prefix}_"
        tensors = {
            name.removeprefix(start): part for name, part in encoded.tensors.items() if name.startswith(start)
        }
        meta = {
            name.removeprefix(start): value for name, value in encoded.meta.items() if name.startswith(start)
        }
        meta.pop(_CODEC)
        found[prefix] = Encoded(str(codec), shape, _DTYPE, tensors, meta)
    return found


def encode_part(
    codec: Codec, matrix: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
) -> Encoded:
    """Encode one matrix as it will be decoded: in float32, whatever the weight is."""
    return codec.encode(matrix.to(torch.float32).contiguous(), hessian, row_weight)


def encode_factor(
    codec: Codec, matrix: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
) -> Encoded:
    """Encode a factor, which may be thinner than what a codec is made for.

    Where its code would be worse than none, in the metric that it was given, the factor has 16 bits.
    """
    encoded = encode_part(codec, matrix, hessian, row_weight)
    error = matrix - decode_part(encoded)
    if metric_cost(error, hessian, row_weight) > metric_cost(matrix, hessian, row_weight):
        encoded = encode_part(Float16Codec(), matrix)
    return encoded


def metric_cost(error: Tensor, hessian: Tensor | None, row_weight: Tensor | None) -> float:
    """``sum_i a_i e_i H e_i^T`` of an error ``[out, in]``, as ``Codec.encode`` has it."""
    seen = error if hessian is None else error @ hessian.to(error.dtype)
    rows = (seen.double() * error).sum(1)
    return float(rows.sum() if row_weight is None else (rows * row_weight).sum())


def decode_part(part: Encoded) -> Tensor:
    """Decode one matrix."""
    return plain_codecs()[part.codec].decode(part)


def _with_parts(encoded: Encoded, parts: Mapping[str, Encoded]) -> Encoded:
    tensors, meta = flatten(parts)
    own = {
        name: value
        for name, value in encoded.meta.items()
        if not any(name.startswith(f"{prefix}_") for prefix in parts)
    }
    return Encoded(encoded.codec, encoded.shape, encoded.dtype, tensors, own | meta)
