"""Adapters call a network as its library would, and know the part of each of its weights."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from fulgurite.models import ImageTextAdapter, tied_names, train_caption_tokenizer, unique_parameters
from fulgurite.models.adapter import ImageSettings
from fulgurite.models.blip_adapter import BlipCaptionAdapter
from fulgurite.testing import CAPTIONS, SMALL_IMAGE_TEXT, small_image_text

CONTRASTIVE = [kind for kind in SMALL_IMAGE_TEXT if not kind.startswith("blip")]


def inputs(adapter: ImageTextAdapter) -> dict[str, torch.Tensor]:
    pixels = torch.randn(len(CAPTIONS), 3, *adapter.images.size)
    return adapter.batch(pixels, adapter.tokenize(CAPTIONS))


def pixels_and_tokens(adapter: ImageTextAdapter) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(len(CAPTIONS), 3, *adapter.images.size), adapter.tokenize(CAPTIONS)


@pytest.mark.parametrize("kind", CONTRASTIVE)
def test_vectors_have_length_1_and_are_those_of_a_whole_pass(kind: str) -> None:
    network, adapter = small_image_text(kind)
    pixels, tokens = pixels_and_tokens(adapter)
    images, texts = adapter.image_vectors(network, pixels), adapter.text_vectors(network, tokens)
    assert images.shape == texts.shape
    for vectors, whole in zip(
        (images, texts), adapter.vectors_of(network(**adapter.batch(pixels, tokens))), strict=True
    ):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(CAPTIONS)), atol=1e-6)
        assert torch.allclose(vectors, whole, atol=1e-6)
        assert vectors.requires_grad


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scale_and_bias_make_transformers_own_logits(kind: str) -> None:
    network, adapter = small_image_text(kind)
    with torch.no_grad():
        network.logit_scale += 0.3
        if kind == "siglip":
            network.logit_bias -= 2
        output = network(**inputs(adapter))
    images, texts = adapter.vectors_of(output)
    scale, bias = adapter.scale_and_bias(network)
    found = scale * images @ texts.T + (0 if bias is None else bias)
    assert (bias is not None) == (kind == "siglip")
    assert torch.allclose(found, output.logits_per_image, atol=1e-5)


@pytest.mark.parametrize("kind", ["open_clip", "open_clip-custom-siglip"])
def test_scale_and_bias_make_open_clips_own_logits(kind: str) -> None:
    network, adapter = small_image_text(kind)
    pixels, tokens = pixels_and_tokens(adapter)
    scale, bias = adapter.scale_and_bias(network)
    cosines = adapter.image_vectors(network, pixels) @ adapter.text_vectors(network, tokens).T
    found = scale * cosines + (0 if bias is None else bias)
    assert torch.allclose(found, network.get_logits(pixels, tokens)[0], atol=1e-5)


def test_a_dictionary_of_open_clip_is_understood() -> None:
    network, adapter = small_image_text("open_clip")
    batch = inputs(adapter)
    plain = adapter.vectors_of(network(**batch))
    network.output_dict = True
    assert all(
        torch.equal(one, other)
        for one, other in zip(plain, adapter.vectors_of(network(**batch)), strict=True)
    )


@pytest.mark.parametrize("kind", SMALL_IMAGE_TEXT)
def test_each_weight_has_a_part(kind: str) -> None:
    network, adapter = small_image_text(kind)
    parts = adapter.towers(network)
    assert set(parts) == set(unique_parameters(network))
    expected = {
        "blip_caption": {"image", "decoder", "fusion"},
        "blip_matching": {"image", "text", "fusion", "joint"},
    }.get(kind, {"image", "text", "joint"})
    assert set(parts.values()) == expected


def test_parts_are_found_by_what_changes() -> None:
    network, adapter = small_image_text("blip_matching")
    pixels, tokens = pixels_and_tokens(adapter)
    parts = adapter.towers(network)

    def after(part: str) -> tuple[bool, bool, bool]:
        """Which of image vectors, text vectors and matches change with the weights of a part."""
        changed, _ = small_image_text("blip_matching")
        changed.load_state_dict(network.state_dict())
        with torch.no_grad():
            for name, weight in changed.named_parameters():
                if parts[name] == part:
                    weight += 0.1 * torch.randn_like(weight)
            calls = (
                lambda made: adapter.image_vectors(made, pixels),
                lambda made: adapter.text_vectors(made, tokens),
                lambda made: adapter.match(made, pixels, tokens),
            )
            found = [not torch.equal(call(network), call(changed)) for call in calls]
        return found[0], found[1], found[2]

    assert after("image") == (True, False, True)
    assert after("text") == (False, True, True)
    assert after("fusion") == (False, False, True)
    assert after("joint") == (True, True, True)


@pytest.mark.parametrize("kind", SMALL_IMAGE_TEXT)
def test_texts_are_cut_padded_and_decoded(kind: str) -> None:
    _, adapter = small_image_text(kind)
    tokens = adapter.tokenize([*CAPTIONS, "red " * 50])
    assert tokens.dtype == torch.int64
    assert tokens.shape == (4, adapter.context_length)
    assert (tokens[0] == adapter.pad_token).any()
    assert not (tokens[3] == adapter.pad_token).any()
    assert adapter.decode(tokens[:2]) == list(CAPTIONS[:2])
    assert adapter.decode(tokens)[3].startswith("red red")


def test_short_texts_are_padded_to_the_longest_where_the_network_allows() -> None:
    for kind, whole in {"clip": False, "blip_caption": False, "siglip": True, "open_clip": True}.items():
        _, adapter = small_image_text(kind)
        assert (adapter.tokenize(["red"]).shape[1] == adapter.context_length) == whole, kind


@pytest.mark.parametrize("kind", ["clip", "blip_caption"])
def test_pads_change_nothing(kind: str) -> None:
    network, adapter = small_image_text(kind)
    pixels = torch.randn(1, 3, 32, 32)
    short = adapter.tokenize(["a red square"])
    padded = functional.pad(short, (0, 3), value=adapter.pad_token)
    with torch.no_grad():
        if kind == "clip":
            found = [adapter.text_vectors(network, tokens) for tokens in (short, padded)]
        else:
            found = [network(**adapter.batch(pixels, tokens)).logits for tokens in (short, padded)]
    # of as many sums, but over longer rows: the last digits of float32
    assert torch.allclose(found[0], found[1][:, : found[0].shape[1]], atol=1e-5)


def test_a_caption_is_what_beam_search_finds() -> None:
    """One beam takes the likeliest token each time: so does a loop over ``network(**batch)``."""
    network, adapter = small_image_text("blip_caption")
    pixels = torch.randn(1, 3, 32, 32)
    tokens = adapter.tokenize([""])[:, :1]  # what captions begin with
    end = adapter.tokenizer.sep_token_id  # type: ignore[attr-defined]
    with torch.no_grad():
        for _ in range(8):
            likeliest = network(**adapter.batch(pixels, tokens)).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, likeliest], 1)
            if int(likeliest) == end:
                break
    assert adapter.generate(network, pixels, num_beams=1, max_new_tokens=8) == adapter.decode(tokens)


def test_captions_are_as_many_as_pictures_and_the_same_each_time() -> None:
    network, adapter = small_image_text("blip_caption")
    pixels = torch.randn(3, 3, 32, 32)
    first = adapter.generate(
        network, pixels, num_beams=3, max_new_tokens=100
    )  # more than there are positions
    assert len(first) == 3
    assert first == adapter.generate(network, pixels, num_beams=3, max_new_tokens=100)


def test_captions_begin_with_the_networks_own_token() -> None:
    network, adapter = small_image_text("blip_caption")
    assert set(adapter.tokenize(CAPTIONS)[:, 0].tolist()) == {network.config.text_config.bos_token_id}
    _, matching = small_image_text("blip_matching")
    assert set(matching.tokenize(CAPTIONS)[:, 0].tolist()) == {matching.tokenizer.cls_token_id}


def test_tokens_that_the_tokenizer_lacks_are_left_out() -> None:
    """Published captioners begin with a token behind the last one of their tokenizer."""
    tokenizer = train_caption_tokenizer(CAPTIONS, 120, "bert")
    adapter = BlipCaptionAdapter(ImageSettings(size=(32, 32), resize="squash"), tokenizer, 16, len(tokenizer))
    tokens = adapter.tokenize(["a red square"])
    assert int(tokens[0, 0]) == len(tokenizer)
    assert adapter.decode(tokens) == ["a red square"]


def test_matches_are_transformers_own() -> None:
    network, adapter = small_image_text("blip_matching")
    pixels, tokens = pixels_and_tokens(adapter)
    found = adapter.match(network, pixels, tokens)
    assert found.shape == (3, 2)
    mask = (tokens != adapter.pad_token).long()
    with torch.no_grad():
        cosines = network(
            pixel_values=pixels, input_ids=tokens, attention_mask=mask, use_itm_head=False
        ).itm_score
        vectors = adapter.image_vectors(network, pixels) @ adapter.text_vectors(network, tokens).T
    assert torch.allclose(vectors, cosines, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("open_clip", "generate"),
        ("clip", "match"),
        ("blip_caption", "image_vectors"),
        ("blip_matching", "generate"),
    ],
)
def test_what_a_network_cannot_do_is_said(kind: str, call: str) -> None:
    network, adapter = small_image_text(kind)
    pixels, tokens = pixels_and_tokens(adapter)
    arguments: dict[str, Any] = {"generate": (pixels,), "match": (pixels, tokens), "image_vectors": (pixels,)}
    with pytest.raises(TypeError, match=f"{adapter.kind} "):
        getattr(adapter, call)(network, *arguments[call])


def test_the_head_of_the_decoder_is_tied() -> None:
    network, adapter = small_image_text("blip_caption")
    tied = tied_names(network)
    assert tied["text_decoder.cls.predictions.decoder.weight"].endswith("word_embeddings.weight")
    assert not set(tied) & set(adapter.towers(network))
