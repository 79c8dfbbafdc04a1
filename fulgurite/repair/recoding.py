"""A repaired weight, coded again in no more bytes than it had.

wanted weight, hessian -> the codec that made its code, at the rate that it came out at -> no more bytes, or nothing
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields

from torch import Tensor

from fulgurite.codecs import Codec, Encoded, VptqCodec
from fulgurite.codecs.vptq import BoundVptqCodec

_CLOSER = 1.004  # a codec of any rate may come out so much above what it is asked for


def recoder(encoded: Encoded, candidates: Sequence[Codec], shared: Collection[str] = ()) -> Codec | None:
    """The codec that codes a weight again into what it has now.

    Args:
        encoded: The weight.
        candidates: Codecs of which one has made it.
        shared: Its parts that other weights share: they are kept.

    Returns:
        ``None`` where which one it was cannot be told.
    """
    same = [codec for codec in candidates if codec.name == encoded.codec]
    for codec in same:
        asked = codec.at_rate(encoded.bits_per_weight / _CLOSER)
        if asked is not None:
            return asked
    if len(same) != 1:
        return None
    codec = same[0]
    if isinstance(codec, VptqCodec) and "codebook" in shared:
        settings = {spec.name: getattr(codec, spec.name) for spec in fields(VptqCodec)}
        names = [name for name in ("codebook", "residual_codebook") if name in encoded.tensors]
        books = tuple(encoded.tensors[name][0] for name in names)
        return BoundVptqCodec(**settings, group="repair", codebooks=books)
    return codec


def recode(
    encoded: Encoded, codec: Codec, target: Tensor, hessian: Tensor, row_weight: Tensor | None = None
) -> Encoded | None:
    """Code a target with a weight's own codec.

    Args:
        encoded: The weight as it is.
        codec: Of ``recoder``.
        target: ``[out, in]``.
        hessian: As ``Codec.encode`` takes it.
        row_weight: As ``Codec.encode`` takes it.

    Returns:
        ``None`` where it would take more bytes.
    """
    found = codec.encode(target.float(), hessian.float(), row_weight)
    if found.num_bytes > encoded.num_bytes:
        return None
    return Encoded(found.codec, encoded.shape, encoded.dtype, found.tensors, found.meta)
