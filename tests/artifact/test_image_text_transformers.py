"""CLIP and BLIP of transformers: artefacts that transformers' own ``from_pretrained`` reads, ties and all."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import fulgurite
from fulgurite._hooks import network_class_name
from fulgurite.artifact.packed import is_packed
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import Codec, Encoded, Float16Codec, UniformCodec, VptqCodec, decode
from fulgurite.models import load_image_text, tied_names, unique_parameters
from fulgurite.testing import CAPTIONS, SMALL_IMAGE_TEXT, small_image_text

KINDS = [kind for kind in SMALL_IMAGE_TEXT if not kind.startswith("open_clip")]
MIXED: tuple[Codec, ...] = (
    UniformCodec(bits=4, group_size=16, entropy=True),
    VptqCodec(codebook_size=16, vector_length=2),
)


def write(kind: str, folder: Path) -> tuple[Any, Any]:
    """Write an artefact of a small network; the network as it decodes, and its adapter."""
    network, adapter = small_image_text(kind)
    parameters = unique_parameters(network)
    matrices = [name for name, weight in parameters.items() if weight.dim() == 2]
    encoded: dict[str, Encoded] = {
        name: MIXED[matrices.index(name) % 2 if name in matrices else 0].encode(weight.detach())
        if name in matrices
        else Float16Codec().encode(weight.detach())
        for name, weight in parameters.items()
    }
    write_artifact(
        folder,
        encoded,
        model_class=network_class_name(network),
        aliases=tied_names(network),
        files=adapter.files(network),
    )
    reference = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in unique_parameters(reference).items():
            weight.copy_(decode(encoded[name]))
    return reference, adapter


@torch.no_grad()
def scores(network: Any, adapter: Any) -> torch.Tensor:
    """Whatever the network says first of three pictures with three texts."""
    pixels = torch.randn(3, 3, *adapter.images.size, generator=torch.Generator().manual_seed(1))
    output = network(**adapter.batch(pixels, adapter.tokenize(CAPTIONS)))
    found: torch.Tensor = next(
        output[name] for name in ("logits", "itm_score", "logits_per_image") if name in output
    )
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["decoded", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_its_decoded_weights(kind: str, packed: bool, tmp_path: Path) -> None:
    reference, adapter = write(kind, tmp_path / "artifact")
    cls = getattr(transformers, network_class_name(reference))
    for loaded in (
        fulgurite.load(tmp_path / "artifact", packed=packed),
        cls.from_pretrained(tmp_path / "artifact", packed=packed, dtype="auto"),
    ):
        assert is_packed(loaded) == packed
        assert not loaded.training
        # the same numbers in the same order: no tolerance
        assert torch.equal(scores(loaded, adapter), scores(reference, adapter))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_network_is_whole_and_tied(kind: str, tmp_path: Path) -> None:
    reference, _ = write(kind, tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact")
    assert tied_names(loaded) == tied_names(reference)
    expected = reference.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    for (name, buffer), (_, other) in zip(loaded.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_processor_reads_the_artefact(kind: str, tmp_path: Path) -> None:
    _, adapter = write(kind, tmp_path / "artifact")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "artifact")
    read = processor(
        images=Image.new("RGB", (40, 50)), text=list(CAPTIONS), padding=True, return_tensors="pt"
    )
    assert read["pixel_values"].shape == (1, 3, 32, 32)
    found, expected = read["input_ids"], adapter.tokenize(CAPTIONS)[:, : read["input_ids"].shape[1]]
    assert torch.equal(
        found[:, 1:], expected[:, 1:]
    )  # captions of BLIP begin with a token of the network's own


@pytest.mark.parametrize("packed", [False, True], ids=["decoded", "packed"])
def test_a_captioner_writes_captions_of_pictures(packed: bool, tmp_path: Path) -> None:
    reference, adapter = write("blip_caption", tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact", packed=packed)
    pictures = [Image.new("RGB", (40, 50), (200, 10, 30)), Image.new("RGBA", (20, 20))]
    pixels = torch.stack([loaded.preprocess(picture) for picture in pictures])
    expected = adapter.generate(reference, pixels, num_beams=2, max_new_tokens=6)
    assert loaded.caption(pictures, num_beams=2, max_new_tokens=6) == expected
    with pytest.raises(ValueError, match="pictures must be a list of at least one"):
        loaded.caption([])


def test_a_network_in_16_bits_writes_captions_too(tmp_path: Path) -> None:
    write("blip_caption", tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact", dtype=torch.bfloat16)
    assert len(loaded.caption([Image.new("RGB", (40, 50))], num_beams=1, max_new_tokens=3)) == 1


@pytest.mark.parametrize("kind", ["clip", "blip_caption"])
def test_an_artefact_can_be_evaluated_and_compressed_again(kind: str, tmp_path: Path) -> None:
    reference, adapter = write(kind, tmp_path / "artifact")
    loaded, again = load_image_text(str(tmp_path / "artifact"))
    assert again.images == adapter.images
    assert torch.equal(scores(loaded, again), scores(reference, adapter))
    assert again.files(loaded) == adapter.files(reference)
    again.save(loaded, tmp_path / "saved")
    assert torch.equal(scores(*load_image_text(str(tmp_path / "saved"))), scores(reference, adapter))


def test_a_background_colour_is_kept(tmp_path: Path) -> None:
    from fulgurite.models import build_image_text, train_caption_tokenizer

    config = {**SMALL_IMAGE_TEXT["clip"], "preprocess_cfg": {"fill_color": 255}}
    network, adapter = build_image_text(config, train_caption_tokenizer(CAPTIONS, 300, "clip"))
    adapter.save(network, tmp_path / "saved")
    assert load_image_text(str(tmp_path / "saved"))[1].images.fill == 255


def test_an_artefact_without_a_tokenizer_loads_as_a_bare_network(tmp_path: Path) -> None:
    from fulgurite.artifact.network_files import network_files

    network, _ = small_image_text("clip")
    encoded = {name: Float16Codec().encode(weight.detach()) for name, weight in network.named_parameters()}
    write_artifact(tmp_path / "a", encoded, model_class="CLIPModel", files=network_files(network))
    assert not hasattr(fulgurite.load(tmp_path / "a"), "tokenize")
