"""What the contract tests run over: a line for each codec and setting that must keep the contract."""

from __future__ import annotations

from fulgurite.codecs import (
    ClusterCodec,
    Codec,
    EcqCodec,
    Float16Codec,
    HyperCodec,
    SeedLMCodec,
    UniformCodec,
    VptqCodec,
)

CONTRACT_CASES: dict[str, Codec] = {
    "cluster": ClusterCodec(clusters=20),
    "ecq2": EcqCodec(),
    "ecq3-scalar": EcqCodec(rate=3, states=1),
    "ecq4-8states-rotated": EcqCodec(rate=4, states=8, rotate="inputs"),
    "fp16": Float16Codec(),
    "hyper-ergodic": HyperCodec(num_points=400, num_classes=1),
    "hyper-ergodic-3d-entropy": HyperCodec(dimension=3, num_points=1000, entropy=True),
    "hyper-grid-entropy": HyperCodec("grid", num_points=400, entropy=True),
    "hyper-polynomial": HyperCodec("polynomial"),
    "hyper-fourier-entropy": HyperCodec("fourier", block_size=8, degree=5, coefficient_bits=6, entropy=True),
    "seedlm4": SeedLMCodec(),
    "seedlm4-8bit-seed-polish-entropy": SeedLMCodec(seed_bits=8, polish=True, entropy=True),
    "uniform4": UniformCodec(bits=4, group_size=32),
    "uniform2-symmetric-search": UniformCodec(bits=2, group_size=64, symmetric=True, search=True),
    "uniform3-entropy": UniformCodec(bits=3, group_size=128, entropy=True),
    "uniform3-feedback": UniformCodec(bits=3, group_size=32, error_feedback=True),
    "vptq": VptqCodec(codebook_size=64),
    "vptq-residual-entropy": VptqCodec(codebook_size=32, residual_codebook_size=16, entropy=True),
    "vptq-groups-outliers": VptqCodec(3, 32, num_groups=2, outlier_share=0.1, column_norm=True),
}
"""Small settings: each must encode a few thousand weights in about a second."""
