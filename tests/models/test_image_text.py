"""An image-text network is loaded whole or not at all, whichever library its folder is of."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fulgurite.models import build_causal_lm, load_image_text, save_causal_lm
from fulgurite.testing import CAPTIONS, SMALL_IMAGE_TEXT, small_image_text

WEIGHTS = "open_clip_model.safetensors"


def pixels_for(adapter: Any) -> torch.Tensor:
    return torch.randn(len(CAPTIONS), 3, *adapter.images.size)


@torch.no_grad()
def scores(network: Any, adapter: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Whatever the network says first of the pictures with their captions."""
    output = network(**adapter.batch(pixels, adapter.tokenize(CAPTIONS)))
    found: torch.Tensor = next(value for value in _values(output) if value.dim() > 1)
    return found


def _values(output: Any) -> list[torch.Tensor]:
    values = output if isinstance(output, tuple) else output.to_tuple()
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a small CLIP of open_clip."""
    network, adapter = small_image_text("open_clip")
    adapter.save(network, tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def blip(tmp_path: Path) -> Path:
    """A folder of a small BLIP of transformers that writes captions."""
    network, adapter = small_image_text("blip_caption")
    adapter.save(network, tmp_path / "blip")
    return tmp_path / "blip"


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", SMALL_IMAGE_TEXT)
def test_a_saved_network_comes_back_with_its_adapter(kind: str, tmp_path: Path) -> None:
    network, adapter = small_image_text(kind)
    pixels = pixels_for(adapter)
    expected = scores(network, adapter, pixels)
    adapter.save(network, tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of the folder is guessed
        loaded, again = load_image_text(str(tmp_path / "moved"))
    assert not loaded.training
    assert again.images == adapter.images
    assert torch.equal(again.tokenize(CAPTIONS), adapter.tokenize(CAPTIONS))
    assert torch.equal(
        scores(loaded, again, pixels), expected
    )  # the same numbers in the same order: no tolerance
    assert again.files(loaded) == adapter.files(network)


@pytest.mark.parametrize("kind", ["open_clip", "clip", "blip_caption"])
def test_weights_are_loaded_in_the_type_asked_for(kind: str, tmp_path: Path) -> None:
    network, adapter = small_image_text(kind)
    adapter.save(network, tmp_path / "saved")
    loaded, again = load_image_text(str(tmp_path / "saved"), dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    expected = scores(network, adapter, pixels := pixels_for(adapter))
    # bfloat16 keeps 8 bits: of values around 1, a few hundredths
    assert torch.allclose(scores(loaded, again, pixels.bfloat16()).float(), expected, atol=0.1)


def test_files_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    for kind in ("open_clip", "clip", "blip_matching"):
        network, adapter = small_image_text(kind)
        adapter.tokenize(CAPTIONS)  # leaves how it has padded in the tokenizer
        adapter.save(network, tmp_path / kind)
        loaded, again = load_image_text(str(tmp_path / kind))
        for name, data in again.files(loaded).items():
            assert str(tmp_path).encode() not in data, name
            assert b'"truncation":{' not in data.replace(b" ", b""), name


def test_a_failed_save_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / WEIGHTS).read_bytes()
    network, adapter = small_image_text("open_clip")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        adapter.save(network, folder)
    assert (folder / WEIGHTS).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_network_that_its_configuration_does_not_describe_is_not_saved(tmp_path: Path) -> None:
    network, adapter = small_image_text("open_clip")
    network.visual.proj = torch.nn.Parameter(torch.zeros(48, 20))
    with pytest.raises(ValueError, match=r"1 of another shape: visual.proj is \[48, 20\], not \[48, 24\]"):
        adapter.save(network, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"1 missing: visual.conv1.weight"),
        ("unexpected", r"1 unexpected: visual.extra"),
        ("shape", r"1 of another shape: ln_final.bias is \[31\], not \[32\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_which_weights(folder: Path, change: str, message: str) -> None:
    weights = load_file(folder / WEIGHTS)
    if change == "missing":
        del weights["visual.conv1.weight"]
    elif change == "unexpected":
        weights["visual.extra"] = torch.zeros(2)
    else:
        weights["ln_final.bias"] = torch.zeros(31)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match=f"{WEIGHTS}: the checkpoint does not fit: {message}"):
        load_image_text(str(folder))


def test_a_cut_checkpoint_is_refused(folder: Path, blip: Path) -> None:
    for path in (folder / WEIGHTS, blip / "model.safetensors"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="the weights cannot be read, are they cut short"):
            load_image_text(str(path.parent))


def test_missing_weights_of_transformers_are_named(blip: Path) -> None:
    weights = load_file(blip / "model.safetensors")
    del weights["vision_model.embeddings.class_embedding"]
    save_file(weights, blip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights are missing .* vision_model.embeddings.class_embedding"):
        load_image_text(str(blip))


def test_a_folder_without_weights_says_what_it_has(folder: Path, blip: Path) -> None:
    (folder / WEIGHTS).unlink()
    (blip / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected weights .*, found open_clip_config.json, tokenizer"
    ):
        load_image_text(str(folder))
    with pytest.raises(FileNotFoundError, match=r"expected weights .*, found config.json"):
        load_image_text(str(blip))


@pytest.mark.parametrize("name", ["nowhere/at/all", "local-dir:nowhere", "./nowhere"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(
        FileNotFoundError, match="expected a folder with an image-text network, found nothing"
    ):
        load_image_text(name)


def test_a_configuration_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("{'model_cfg'")
    with pytest.raises(ValueError, match=r"open_clip_config.json: not JSON"):
        load_image_text(str(folder))


@pytest.mark.parametrize(
    ("model_cfg", "message"),
    [
        (None, "model_cfg must be an object, got NoneType"),
        ({"embed_dim": 8}, "model_cfg needs vision_cfg, found embed_dim"),
        ({"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}, "multimodal_cfg": {}}, "CoCa is not supported"),
        (
            {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": "x"}},
            "text towers of another library",
        ),
        (
            {"embed_dim": 8, "vision_cfg": {"layers": 0}, "text_cfg": {}},
            r"vision_cfg.layers must be in \[1, 1000\]",
        ),
        ({"embed_dim": 8, "vision_cfg": {"colour": 1}, "text_cfg": {}}, "open_clip cannot build the network"),
    ],
)
def test_a_configuration_of_something_else_is_refused(folder: Path, model_cfg: Any, message: str) -> None:
    change_json(folder / "open_clip_config.json", model_cfg=model_cfg)
    with pytest.raises(ValueError, match=f"open_clip_config.json: .*{message}"):
        load_image_text(str(folder))


def test_a_causal_language_model_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    save_causal_lm(build_causal_lm({"model_type": "llama", **sizes}, 50), None, tmp_path / "lm")
    with pytest.raises(ValueError, match=r"expected an image-text network .*, found LlamaForCausalLM"):
        load_image_text(str(tmp_path / "lm"))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path, blip: Path) -> None:
    for place in (folder, blip):
        for path in place.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(FileNotFoundError, match=r"expected (a tokenizer \()?tokenizer.json"):
            load_image_text(str(place))


def test_without_a_processor_pictures_are_taken_by_the_defaults_with_a_warning(blip: Path) -> None:
    expected = load_image_text(str(blip))[1].images
    (blip / "processor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"found neither: pictures are taken as transformers .* at 32x32"):
        _, adapter = load_image_text(str(blip))
    assert adapter.images == expected


def test_without_preprocess_cfg_pictures_are_taken_by_the_defaults_with_a_warning(folder: Path) -> None:
    change_json(folder / "open_clip_config.json", preprocess_cfg={})
    with pytest.warns(UserWarning, match=r"no preprocess_cfg: pictures are taken as open_clip"):
        _, adapter = load_image_text(f"local-dir:{folder}")
    assert adapter.images.size == (32, 32)  # the network's
    assert adapter.images.resize == "shortest"


def test_a_processor_of_another_size_is_refused(blip: Path) -> None:
    path = blip / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["size"] = {"height": 48, "width": 48}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="makes 48x48 pixels, the network reads 32x32"):
        load_image_text(str(blip))
