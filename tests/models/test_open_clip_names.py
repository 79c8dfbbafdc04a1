"""Networks of open_clip by name, from a checkpoint file; tags need a hub."""

from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip import factory

from fulgurite.models import load_image_text

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 8, "width": 8, "heads": 2, "layers": 1},  # open_clip's own tokenizer
}


@pytest.fixture
def small_name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that open_clip knows for the time of a test: its own networks take a second each to build."""
    monkeypatch.setitem(factory._MODEL_CONFIGS, "small", SMALL)
    return "open_clip:small"


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "of a training run"])
def test_a_checkpoint_fills_a_named_network(small_name: str, wrapped: bool, tmp_path: Path) -> None:
    made = factory.create_model("small")
    state = made.state_dict()
    path = tmp_path / "epoch_1.pt"
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}} if wrapped else state, path
    )
    with pytest.warns(UserWarning, match="a checkpoint does not say how pictures become pixels"):
        network, adapter = load_image_text(small_name, pretrained=str(path))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    assert adapter.images.size == (32, 32)
    texts = ["a red square"]
    assert torch.equal(adapter.tokenize(texts), factory.get_tokenizer("small")(texts))
    assert adapter.decode(adapter.tokenize(texts)) == texts


def test_a_checkpoint_of_another_network_says_which_weights(small_name: str, tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with (
        pytest.warns(UserWarning, match="does not say"),
        pytest.raises(
            ValueError, match=r"other.pt: .* missing: .*; 1 of another shape: visual.conv1.weight is"
        ),
    ):
        load_image_text(small_name, pretrained=str(tmp_path / "other.pt"))


def test_without_weights_the_tags_are_listed() -> None:
    with pytest.raises(ValueError, match=r"needs pretrained, a checkpoint file or one of openai, "):
        load_image_text("open_clip:ViT-B-32")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-33", "openai", r"open_clip knows no such network; near: ViT-B-"),
        ("ViT-B-32", "nobody", r"pretrained must be a file or one of openai, .*, got 'nobody'"),
        ("coca_ViT-B-32", "x", r"CoCa is not supported"),
    ],
)
def test_unknown_names_are_refused(name: str, pretrained: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image_text(f"open_clip:{name}", pretrained=pretrained)


def test_a_checkpoint_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere.pt: expected a checkpoint of ViT-B-32, found nothing"
    ):
        load_image_text("open_clip:ViT-B-32", pretrained="nowhere.pt")


def test_pretrained_goes_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pretrained goes with open_clip:NAME"):
        load_image_text(str(tmp_path), pretrained="openai")


def test_a_missing_hub_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"open_clip:ViT-B-32: the weights 'openai' cannot be fetched \([^\n]*\)"
    ):
        load_image_text("open_clip:ViT-B-32", pretrained="openai")
    with pytest.raises(
        ValueError, match=r"hf-hub:nobody/clip: cannot be fetched from the Hugging Face hub: [^\n]*$"
    ):
        load_image_text("hf-hub:nobody/clip")
