"""What tests run over: a line for each codec and setting that must keep the contract, and for each kind of network."""

from __future__ import annotations

from typing import Any

from fulgurite.codecs import (
    ClusterCodec,
    Codec,
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

CONTRACT_CASES: dict[str, Codec] = {
    "cluster": ClusterCodec(clusters=20),
    "dare": DareCodec(drop=0.1),
    "dare-unbiased-4bit": DareCodec(drop=0.2, rescale="unbiased", bits=4),
    "ecq2": EcqCodec(),
    "ecq3-scalar": EcqCodec(rate=3, states=1),
    "ecq4-8states-rotated": EcqCodec(rate=4, states=8, rotate="inputs"),
    "fp16": Float16Codec(),
    "hyper-ergodic": HyperCodec(num_points=400, num_classes=1),
    "hyper-ergodic-3d-entropy": HyperCodec(dimension=3, num_points=1000, entropy=True),
    "hyper-grid-entropy": HyperCodec("grid", num_points=400, entropy=True),
    "hyper-polynomial": HyperCodec("polynomial"),
    "hyper-fourier-entropy": HyperCodec("fourier", block_size=8, degree=5, coefficient_bits=6, entropy=True),
    "low-rank12": LowRankCodec(rank=12),
    "low-rank-energy-uniform8": LowRankCodec(energy=0.85, inner=UniformCodec(bits=8, group_size=32)),
    "low-rank-4bits-uniform6": LowRankCodec(bits_per_weight=4, inner=UniformCodec(bits=6, group_size=32)),
    "low-rank-plus-uniform2": LowRankPlusCodec(rank=3),
    "low-rank-plus-ecq3bits": LowRankPlusCodec(
        rank=2, inner=EcqCodec(states=8), factors=UniformCodec(bits=8), bits_per_weight=3
    ),
    "seedlm4": SeedLMCodec(),
    "seedlm4-8bit-seed-polish-entropy": SeedLMCodec(seed_bits=8, polish=True, entropy=True),
    "sparse": SparseCodec(),
    "sparse-wanda-4bit": SparseCodec(score="wanda", bits=4),
    "sparse-sparsegpt-3bit": SparseCodec(0.3, score="sparsegpt", bits=3),
    "sparse-blocks": SparseCodec(0.4, pattern="4x4"),
    "uniform4": UniformCodec(bits=4, group_size=32),
    "uniform2-symmetric-search": UniformCodec(bits=2, group_size=64, symmetric=True, search=True),
    "uniform3-entropy": UniformCodec(bits=3, group_size=128, entropy=True),
    "uniform3-feedback": UniformCodec(bits=3, group_size=32, error_feedback=True),
    "vptq": VptqCodec(codebook_size=64),
    "vptq-residual-entropy": VptqCodec(codebook_size=32, residual_codebook_size=16, entropy=True),
    "vqvae-3bits": VqvaeCodec(3, codes=16, steps=2),
    "vptq-groups-outliers": VptqCodec(3, 32, num_groups=2, outlier_share=0.1, column_norm=True),
}
"""Small settings: each must encode a few thousand weights in about a second."""

_OPEN_CLIP: dict[str, Any] = {
    "library": "open_clip",
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 24, "patch_size": 16},
    "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 2},
}
_TOWER = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
_TRANSFORMERS: dict[str, Any] = {
    "library": "transformers",
    "vision_config": {**_TOWER, "image_size": 32, "patch_size": 16},
    "text_config": {**_TOWER, "max_position_embeddings": 24},
}
SMALL_IMAGE_TEXT: dict[str, dict[str, Any]] = {
    "open_clip": _OPEN_CLIP,
    # SigLIP's loss has a bias; a text tower of its own
    "open_clip-custom-siglip": {**_OPEN_CLIP, "custom_text": True, "init_logit_bias": -10.0},
    # convolutions, and the means and variances of their outputs
    "open_clip-resnet": {
        **_OPEN_CLIP,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    },
    # buffers that are computed, not stored
    "open_clip-timm": {
        **_OPEN_CLIP,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit_relpos", "timm_pool": "avg"},
    },
    "clip": {**_TRANSFORMERS, "model_type": "clip", "projection_dim": 24},
    "siglip": {**_TRANSFORMERS, "model_type": "siglip"},
    "blip_caption": {**_TRANSFORMERS, "model_type": "blip_caption"},
    "blip_matching": {**_TRANSFORMERS, "model_type": "blip_matching", "image_text_hidden_size": 24},
}
"""Settings of a small network of each kind of image and text, for ``small_image_text``."""

CAPTIONS = ("a red square", "a blue circle on a green field", "two small dogs and a cat's hat")


def small_image_text(kind: str) -> tuple[Any, Any]:
    """A random network in eval mode and its adapter; biases too, which start as zeros.

    Args:
        kind: A key of ``SMALL_IMAGE_TEXT``.
    """
    import torch

    from fulgurite.models import build_image_text, train_caption_tokenizer

    # 300 and 120: little more than the bytes, or the letters, that any text needs
    bert = kind.startswith("blip")
    tokenizer = train_caption_tokenizer(CAPTIONS, 120 if bert else 300, "bert" if bert else "clip")
    network, adapter = build_image_text(SMALL_IMAGE_TEXT[kind], tokenizer)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval(), adapter
