"""What the contract tests run over: a line for each codec and setting that must keep the contract."""

from __future__ import annotations

from fulgurite.codecs import Codec, Float16Codec, UniformCodec

CONTRACT_CASES: dict[str, Codec] = {
    "fp16": Float16Codec(),
    "uniform4": UniformCodec(bits=4, group_size=32),
    "uniform2-symmetric-search": UniformCodec(bits=2, group_size=64, symmetric=True, search=True),
    "uniform3-entropy": UniformCodec(bits=3, group_size=128, entropy=True),
}
"""Small settings: each must encode a few thousand weights in about a second."""
