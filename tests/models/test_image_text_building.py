"""Networks from settings: sizes follow from the tokenizer, and what cannot be is refused with its name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.models import build_image_text, train_caption_tokenizer
from fulgurite.testing import CAPTIONS, SMALL_IMAGE_TEXT

OPEN_CLIP, CLIP = SMALL_IMAGE_TEXT["open_clip"], SMALL_IMAGE_TEXT["clip"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_caption_tokenizer(CAPTIONS, 280, "clip")


@pytest.mark.parametrize("kind", ["open_clip", "clip", "blip_caption"])
def test_the_seed_decides_the_weights(kind: str, tokenizer: Any) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_image_text(SMALL_IMAGE_TEXT[kind], tokenizer)[0].state_dict())
    first, same, other = states
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_the_vocabulary_is_the_tokenizers(tokenizer: Any) -> None:
    assert build_image_text(OPEN_CLIP, tokenizer)[0].token_embedding.num_embeddings == len(tokenizer)
    text = build_image_text(CLIP, tokenizer)[0].config.text_config
    assert (text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id) == (
        len(tokenizer),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def test_a_tokenizer_may_be_a_folder(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(str(tmp_path))
    from_object, from_folder = (build_image_text(CLIP, each)[1] for each in (tokenizer, tmp_path))
    assert torch.equal(from_object.tokenize(CAPTIONS), from_folder.tokenize(CAPTIONS))


def test_without_a_tokenizer_open_clips_own_is_taken() -> None:
    network, adapter = build_image_text(OPEN_CLIP)
    assert network.token_embedding.num_embeddings == 49408
    assert list(adapter.files(network)) == ["open_clip_config.json"]
    assert adapter.decode(adapter.tokenize(["a red square"])) == ["a red square"]


@pytest.mark.parametrize("config", [OPEN_CLIP, CLIP], ids=["open_clip", "transformers"])
def test_pictures_are_taken_as_asked(config: dict[str, Any], tokenizer: Any) -> None:
    asked = {
        "mean": [0.1, 0.2, 0.3],
        "std": 0.5,
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "fill_color": 255,
    }
    images = build_image_text({**config, "preprocess_cfg": asked}, tokenizer)[1].images
    assert (images.size, images.mean, images.std) == ((32, 32), (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert (images.interpolation, images.resize, images.fill) == ("bilinear", "squash", 255)


def test_the_picture_tower_of_blip_starts_from_weights_that_can_learn(tokenizer: Any) -> None:
    network, _ = build_image_text(SMALL_IMAGE_TEXT["blip_caption"], tokenizer)
    spread = network.vision_model.encoder.layers[0].mlp.fc1.weight.std()
    assert 0.01 < spread < 0.03  # transformers' own default is 1e-10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config.library must be one of open_clip, transformers, got None"),
        ({"library": "keras"}, "got 'keras'"),
        (
            {"library": "transformers", "model_type": "llama"},
            "config.model_type must be one of clip, .*, got 'llama'",
        ),
        ({"library": "open_clip", "embed_dim": 8}, "model_cfg needs vision_cfg, found embed_dim"),
        ({**OPEN_CLIP, "colour": "red"}, "model_cfg has unknown settings colour"),
        (
            {**OPEN_CLIP, "text_cfg": {"vocab_size": 100}},
            "vocab_size must be at least the tokenizer's 280, got 100",
        ),
        (
            {**OPEN_CLIP, "vision_cfg": {"timm_model_name": "hf-hub:x/y"}},
            "one of timm's own networks, got 'hf-hub:x/y'",
        ),
        (
            {**OPEN_CLIP, "text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}},
            "got trust_remote_code",
        ),
        (
            {**OPEN_CLIP, "preprocess_cfg": {"resize_mode": "fold"}},
            "resize_mode must be one of .*, got 'fold'",
        ),
        ({**OPEN_CLIP, "preprocess_cfg": {"colour": 1}}, "preprocess_cfg may hold .*, got colour"),
        (
            {**CLIP, "preprocess_cfg": {"resize_mode": "longest"}},
            "cut to a square or squashed, got resize 'longest'",
        ),
        (
            {**CLIP, "text_config": {"hidden_size": 30, "num_attention_heads": 4}},
            "transformers cannot build clip",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(config: dict[str, Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        build_image_text(config, tokenizer)


def test_pooling_at_the_highest_token_needs_a_tokenizer_that_ends_with_it() -> None:
    bert = train_caption_tokenizer(CAPTIONS, 120, "bert")
    config = {**OPEN_CLIP, "text_cfg": {**OPEN_CLIP["text_cfg"], "pool_type": "argmax"}}
    with pytest.raises(ValueError, match="text_cfg.pool_type argmax finds a text's end by the highest token"):
        build_image_text(config, bert)


def test_a_tokenizer_without_padding_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="needs a token to pad with, has none"):
        build_image_text(CLIP, bare)
