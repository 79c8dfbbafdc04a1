"""Codecs: one technique a file, one line in ``CODECS``."""

from torch import Tensor

from fulgurite.codecs.base import DTYPES, Codec, Encoded, as_matrix, nmse
from fulgurite.codecs.cluster import ClusterCodec
from fulgurite.codecs.dare import DareCodec
from fulgurite.codecs.ecq import EcqCodec
from fulgurite.codecs.float16 import Float16Codec
from fulgurite.codecs.hyper import HyperCodec
from fulgurite.codecs.low_rank import LowRankCodec
from fulgurite.codecs.low_rank_plus import LowRankPlusCodec
from fulgurite.codecs.seedlm import SeedLMCodec
from fulgurite.codecs.sparse import SparseCodec
from fulgurite.codecs.uniform import UniformCodec
from fulgurite.codecs.vptq import VptqCodec
from fulgurite.codecs.vqvae import VqvaeCodec

CODECS: dict[str, type[Codec]] = {
    codec.name: codec
    for codec in (
        ClusterCodec,
        DareCodec,
        EcqCodec,
        Float16Codec,
        HyperCodec,
        LowRankCodec,
        LowRankPlusCodec,
        SeedLMCodec,
        SparseCodec,
        UniformCodec,
        VptqCodec,
        VqvaeCodec,
    )
}


def decode(encoded: Encoded) -> Tensor:
    """Rebuild a weight from its bytes, whichever codec made them.

    Raises:
        ValueError: If the codec is not known or a part does not have the size that it must have.
    """
    if encoded.codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {encoded.codec!r}")
    return CODECS[encoded.codec].decode(encoded)


__all__ = [
    "CODECS",
    "DTYPES",
    "ClusterCodec",
    "Codec",
    "DareCodec",
    "EcqCodec",
    "Encoded",
    "Float16Codec",
    "HyperCodec",
    "LowRankCodec",
    "LowRankPlusCodec",
    "SeedLMCodec",
    "SparseCodec",
    "UniformCodec",
    "VptqCodec",
    "VqvaeCodec",
    "as_matrix",
    "decode",
    "nmse",
]
