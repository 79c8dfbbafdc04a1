"""What a reader gets to see of an image-text network and its compressed form, through the module's own settings."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from datamodules import ShapesDataModule
from fulgurite.evaluation.benchmarks import Captioning, ZeroShot
from fulgurite.models import build_image_text, train_caption_tokenizer
from lightning_modules import Blip, Clip, LanguageModel, TextEncoder
from lightning_modules.compressible import ShowsPictures

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
CLIP = {
    "library": "transformers",
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": VISION,
    "text_config": {**TOWER, "max_position_embeddings": 16},
}
BLIP = {
    "library": "transformers",
    "model_type": "blip_caption",
    "vision_config": VISION,
    "text_config": {**TOWER, "max_position_embeddings": 24, "encoder_hidden_size": 32},
}


@pytest.fixture
def shapes() -> ShapesDataModule:
    return ShapesDataModule(train=48, validation=20, side=32, batch_size=8)


def made(module: Any, shapes: ShapesDataModule) -> Any:
    """The module with a network of random weights."""
    torch.manual_seed(0)
    texts = [text for each in shapes.split("train").captions for text in each]
    tokenizer = train_caption_tokenizer(texts, 320, module.tokenizer_kind)
    module.network, module._adapter = build_image_text(module.config, tokenizer)
    module.network.requires_grad_(False).eval()
    shapes.use_adapter(module.adapter)
    return module


def other(network: Any) -> Any:
    """The network with weights that were hurt."""
    changed = deepcopy(network)
    for name, parameter in changed.named_parameters():
        if name.endswith("weight"):
            parameter += 0.3 * parameter.std() * torch.randn(parameter.shape)
    return changed


def test_a_clip_finds_and_classifies_by_its_own_templates(shapes: ShapesDataModule) -> None:
    zero_shot = ZeroShot(["this is {}"])
    module = made(Clip(config=CLIP, benchmarks=[zero_shot]), shapes)
    network = other(module.network)
    pictures = module.pictures(network, module, shapes)
    assert len(pictures.retrieved) == 6
    assert any(each.before != each.after for each in pictures.retrieved)
    assert pictures.captions == ()
    for side, each in (("before", module.network), ("after", network)):
        matrix = getattr(pictures.confusion, side)
        hits = sum(matrix[place][place] for place in range(36)) / 20
        assert hits == pytest.approx(module.evaluate_network(each, shapes).measures[0].value)


def test_a_blip_writes_captions_by_its_own_search(shapes: ShapesDataModule) -> None:
    module = made(Blip(config=BLIP, benchmarks=[Captioning(num_beams=1, max_new_tokens=3)]), shapes)
    pictures = module.pictures(other(module.network), module, shapes)
    assert (pictures.retrieved, pictures.confusion) == ((), None)
    assert len(pictures.captions) == 6
    view = module._view(module.network, shapes, shapes.evaluation(), None)
    expected = view.captions_written(num_beams=1, max_new_tokens=3)
    assert [each.before for each in pictures.captions] == [
        expected[view.indices.index(each.index)] for each in pictures.captions
    ]


def test_progress_counts_the_pictures_of_both_networks(shapes: ShapesDataModule) -> None:
    module = made(Clip(config=CLIP), shapes)
    seen: list[int] = []
    pictures = module.pictures(module.network, module, shapes, limit=10, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 20  # 10 each
    assert sum(map(sum, pictures.confusion.before)) == 10


def test_networks_that_read_other_pixels_are_not_compared(shapes: ShapesDataModule) -> None:
    module = made(Clip(config=CLIP), shapes)
    before = deepcopy(module)
    before.adapter.images = replace(before.adapter.images, mean=(0.1, 0.1, 0.1))
    assert module.pictures(module.network, before, shapes) is None


def test_only_networks_of_pictures_show_some() -> None:
    assert isinstance(Clip(config=CLIP), ShowsPictures)
    assert not isinstance(LanguageModel(config={"model_type": "llama"}), ShowsPictures)
    assert not isinstance(TextEncoder("nowhere"), ShowsPictures)
