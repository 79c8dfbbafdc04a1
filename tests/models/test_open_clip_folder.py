"""Folders that are written for open_clip are read by open_clip itself, wherever they are moved."""

import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from fulgurite.models import build_image_text, to_pixels, train_caption_tokenizer
from fulgurite.testing import CAPTIONS, SMALL_IMAGE_TEXT, small_image_text

KINDS = [kind for kind in SMALL_IMAGE_TEXT if kind.startswith("open_clip")]


def picture(width: int = 50, height: int = 41) -> Image.Image:
    values = torch.randint(256, (height, width, 3), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_open_clip_reads_a_moved_folder(kind: str, tmp_path: Path) -> None:
    network, adapter = small_image_text(kind)
    adapter.save(network, tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    name = f"local-dir:{tmp_path / 'moved'}"
    theirs, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(list(CAPTIONS))
    assert torch.equal(tokens, adapter.tokenize(CAPTIONS))
    pictures = [picture(), picture(41, 50), picture(7, 9)]
    pixels = torch.stack([to_pixels(each, adapter.images) for each in pictures])
    assert torch.equal(torch.stack([preprocess(each) for each in pictures]), pixels)
    with torch.no_grad():
        expected = theirs.eval()(pixels, tokens)
        found = network(**adapter.batch(pixels, tokens))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["open_clip", "open_clip-custom-siglip"])
def test_a_text_is_read_where_it_ends(kind: str) -> None:
    network, adapter = small_image_text(kind)
    tokens = adapter.tokenize(["a red square"])
    end = int(tokens.argmax())  # the highest token
    assert end < adapter.context_length - 1  # there are pads behind it
    after, before = tokens.clone(), tokens.clone()
    after[0, end + 1] = 5  # any other token
    before[0, 1] = 5
    with torch.no_grad():
        vector, same, other = (adapter.text_vectors(network, each) for each in (tokens, after, before))
    assert torch.equal(vector, same)
    assert not torch.allclose(vector, other, atol=1e-4)


def test_a_tokenizer_in_berts_manner_is_read_where_it_ends() -> None:
    tokenizer = train_caption_tokenizer(CAPTIONS, 120, "bert")  # its end token has id 3
    network, adapter = build_image_text(SMALL_IMAGE_TEXT["open_clip"], tokenizer)
    tokens = adapter.tokenize(["a red square"])
    end = tokens[0].tolist().index(3)
    tokens_after = tokens.clone()
    tokens_after[0, end + 1] = 60
    with torch.no_grad():
        assert torch.equal(adapter.text_vectors(network, tokens), adapter.text_vectors(network, tokens_after))


def test_open_clips_own_registry_is_left_alone(tmp_path: Path) -> None:
    before = open_clip.list_models()
    network, adapter = small_image_text("open_clip")
    adapter.save(network, tmp_path / "saved")
    assert open_clip.list_models() == before
