"""An artefact of an open_clip network comes back as its decoded weights, or as an error before it is allocated."""

import copy
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fulgurite
from fulgurite._hooks import network_class_name
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import write_file
from fulgurite.artifact.manifest import checksum, read_manifest
from fulgurite.artifact.packed import is_packed
from fulgurite.artifact.reader import RAW
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import Codec, Encoded, Float16Codec, HyperCodec, UniformCodec, VptqCodec, decode
from fulgurite.models import load_image_text, to_pixels, unique_parameters
from fulgurite.testing import CAPTIONS, SMALL_IMAGE_TEXT, small_image_text

KINDS = [kind for kind in SMALL_IMAGE_TEXT if kind.startswith("open_clip")]
MIXED: tuple[Codec, ...] = (
    UniformCodec(bits=4, group_size=16, entropy=True),
    HyperCodec(num_points=400, num_classes=1),
    VptqCodec(codebook_size=16, vector_length=2, share_above=0.0),  # one codebook for all of its matrices
)
CONFIG = "open_clip_config.json"


def encode(network: Any) -> dict[str, Encoded]:
    """Three codecs in turn over the matrices, the rest in 16 bits, buffers as they are."""
    parameters = unique_parameters(network)
    matrices = [name for name, weight in parameters.items() if weight.dim() == 2]
    encoded: dict[str, Encoded] = {}
    for index, codec in enumerate(MIXED):
        mine = {name: parameters[name].detach() for name in matrices[index :: len(MIXED)]}
        encoded |= {name: bound.encode(mine[name]) for name, bound in codec.bind(mine).items()}
    for name, weight in parameters.items():
        encoded.setdefault(name, Float16Codec().encode(weight.detach()))
    for name, value in network.state_dict().items():
        if name not in parameters:
            dtype = str(value.dtype).removeprefix("torch.")
            encoded[name] = Encoded(RAW, tuple(value.shape), dtype, {"values": value})
    return encoded


def write(kind: str, folder: Path) -> tuple[Any, Any]:
    """Write an artefact of a small network; the network as it decodes, and its adapter."""
    network, adapter = small_image_text(kind)
    encoded = encode(network)
    name = network_class_name(network)
    write_artifact(folder, encoded, model_class=name, files=adapter.files(network))
    reference = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            weight.copy_(decode(encoded[name]))
    return reference, adapter


@torch.no_grad()
def vectors(network: Any, adapter: Any) -> torch.Tensor:
    """Vectors of pictures and texts, one below the other."""
    pixels = torch.randn(3, 3, *adapter.images.size, generator=torch.Generator().manual_seed(1))
    return torch.cat(network(**adapter.batch(pixels, adapter.tokenize(CAPTIONS)))[:2])


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write("open_clip", tmp_path / "artifact")
    return tmp_path / "artifact"


def change_config(folder: Path, change: Any) -> None:
    """Alter the configuration of an artefact, and the manifest so that the checksum is right: an attacker would."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    data = json.dumps(config).encode()
    write_file(folder / CONFIG, data)
    manifest = json.loads((folder / "fulgurite.json").read_text())
    manifest["files"][CONFIG] = checksum(data)
    write_file(folder / "fulgurite.json", json.dumps(manifest).encode())


@pytest.mark.parametrize("packed", [False, True], ids=["decoded", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_its_decoded_weights(kind: str, packed: bool, tmp_path: Path) -> None:
    reference, adapter = write(kind, tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact", packed=packed)
    assert is_packed(loaded) == packed
    assert not loaded.training
    assert network_class_name(loaded) == network_class_name(reference)
    # the same numbers in the same order: no tolerance
    assert torch.equal(vectors(loaded, adapter), vectors(reference, adapter))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_network_is_whole(kind: str, tmp_path: Path) -> None:
    reference, _ = write(kind, tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact")
    found, expected = loaded.state_dict(), reference.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype, name
    for (name, buffer), (_, other) in zip(loaded.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name  # those that are not in the state too
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    assert all(weight.requires_grad for weight in loaded.parameters())


@pytest.mark.parametrize("packed", [False, True], ids=["decoded", "packed"])
def test_a_network_is_loaded_in_the_type_asked_for(packed: bool, artifact: Path) -> None:
    loaded = fulgurite.load(artifact, packed=packed, dtype=torch.bfloat16)
    _, adapter = small_image_text("open_clip")
    pixels, tokens = torch.randn(3, 3, 32, 32), loaded.tokenize(CAPTIONS)
    with torch.no_grad():
        found = loaded(pixels.bfloat16(), tokens)
        expected = fulgurite.load(artifact)(pixels, tokens)
    assert found[0].dtype == torch.bfloat16
    assert loaded.attn_mask.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: of numbers below 1, less than a hundredth a step, over a few layers
    assert torch.allclose(found[0].float(), expected[0], atol=0.05)
    assert adapter.image_vectors(loaded, pixels).dtype == torch.float32


def test_a_network_is_loaded_where_it_is_asked_for(artifact: Path) -> None:
    assert {weight.device.type for weight in fulgurite.load(artifact, device="meta").parameters()} == {"meta"}


def test_users_get_what_makes_inputs(tmp_path: Path) -> None:
    _, adapter = write("open_clip", tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact")
    picture = Image.new("RGB", (40, 50), (10, 200, 30))
    assert torch.equal(loaded.preprocess(picture), to_pixels(picture, adapter.images))
    assert torch.equal(loaded.tokenize(CAPTIONS), adapter.tokenize(CAPTIONS))
    assert not hasattr(loaded, "caption")


def test_an_artefact_can_be_evaluated_and_compressed_again(tmp_path: Path) -> None:
    reference, adapter = write("open_clip", tmp_path / "artifact")
    shutil.move(tmp_path / "artifact", tmp_path / "moved")
    loaded, again = load_image_text(str(tmp_path / "moved"))
    assert torch.equal(vectors(loaded, again), vectors(reference, adapter))
    assert again.files(loaded) == adapter.files(reference)
    again.save(loaded, tmp_path / "saved")
    assert torch.equal(vectors(*load_image_text(str(tmp_path / "saved"))), vectors(reference, adapter))


def test_a_decoded_network_trains(artifact: Path) -> None:
    loaded = fulgurite.load(artifact).train()
    output = loaded(torch.randn(3, 3, 32, 32), loaded.tokenize(CAPTIONS))
    (output[0] @ output[1].T * output[2]).sum().backward()
    assert all(weight.grad is not None for weight in loaded.parameters())


def test_a_packed_network_keeps_its_bytes_packed_and_is_not_saved(artifact: Path, tmp_path: Path) -> None:
    packed, (_, adapter) = fulgurite.load(artifact, packed=True), small_image_text("open_clip")
    manifest = read_manifest(artifact)
    coded = {name for name in manifest.weights if not manifest.layout(name).native}
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in coded
    assert not coded & {name for name, _ in packed.named_parameters()}
    with pytest.raises(ValueError, match="a packed network is copied as its folder"):
        adapter.save(packed, tmp_path / "saved")


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.manual_seed(3)
        write("open_clip", tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files
    )


def test_open_clip_itself_refuses_packed_weights(artifact: Path) -> None:
    import open_clip

    with pytest.raises(Exception, match=r"shape|size|index|dimensions"):  # its own words
        open_clip.create_model(f"local-dir:{artifact}")


def test_a_configuration_that_was_altered_is_refused(artifact: Path) -> None:
    path = artifact / CONFIG
    write_file(path, path.read_bytes().replace(b'"heads":2', b'"heads":4'))
    with pytest.raises(ArtifactError, match=rf"{CONFIG}: the file has checksum"):
        fulgurite.load(artifact)


def _set(tower: str, key: str, value: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["model_cfg"][tower][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("vision_cfg", "width", 48 * 4096), r"weight 'visual.* has shape .*, the network's is .*"),
        (_set("vision_cfg", "width", 48 * 10**15), r"open_clip cannot build the network|the network's is"),
        (_set("vision_cfg", "layers", 3), r"the network has 'visual.transformer.resblocks.2"),
        (_set("vision_cfg", "layers", 1), r"lists 'visual.transformer.resblocks.1.* which the network lacks"),
        (_set("vision_cfg", "layers", 10**9), r"vision_cfg.layers must be in \[1, 62\], got 1000000000"),
        (_set("text_cfg", "layers", 10**9), r"text_cfg.layers must be in \[1, 62\]"),
        (_set("text_cfg", "context_length", 4000), r"'positional_embedding' has shape \[12, 32\]"),
        (_set("text_cfg", "vocab_size", 10**12), r"'token_embedding.weight' has shape"),
        (_set("text_cfg", "context_length", 10**9), r"text_cfg.context_length must be in \[1, 4096\]"),
        (_set("text_cfg", "heads", 0), r"open_clip cannot build the network"),
        (_set("text_cfg", "width", -32), r"open_clip cannot build the network"),
        (_set("text_cfg", "width", "wide"), r"open_clip cannot build the network"),
        (_set("text_cfg", "hf_model_name", "roberta-base"), r"text towers of another library"),
        (_set("text_cfg", "tokenizer_kwargs", {"trust_remote_code": True}), r"got trust_remote_code"),
        (_set("vision_cfg", "timm_model_name", "local-dir:/x"), r"one of timm's own networks, got 'local-dir:/x'"),
        (lambda config: config.update(model_cfg=[]), r"model_cfg must be an object, got list"),
        (lambda config: config["model_cfg"].update(custom_text=True), r"describes a CustomTextCLIP"),
        (lambda config: config["preprocess_cfg"].update(mean=[1]), r"mean must have a value for each of 3 channels"),
    ],
)  # fmt: skip
def test_a_hostile_configuration_is_refused_before_it_is_allocated(
    artifact: Path, change: Any, message: str
) -> None:
    change_config(artifact, change)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=f"(?s){message}"):
        fulgurite.load(artifact)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000  # Python's own share; torch's is seen by whether the machine still runs


def test_a_missing_or_extra_weight_is_refused(tmp_path: Path) -> None:
    network, adapter = small_image_text("open_clip")
    encoded, files = encode(network), adapter.files(network)
    less = {name: value for name, value in encoded.items() if name != "ln_final.bias"}
    write_artifact(tmp_path / "less", less, model_class="open_clip.CLIP", files=files)
    more = {**encoded, "visual.surplus": Float16Codec().encode(torch.ones(3))}
    write_artifact(tmp_path / "more", more, model_class="open_clip.CLIP", files=files)
    with pytest.raises(ArtifactError, match=r"the network has 'ln_final.bias' and 0 more"):
        fulgurite.load(tmp_path / "less")
    with pytest.raises(ArtifactError, match=r"lists 'visual.surplus' and 0 more"):
        fulgurite.load(tmp_path / "more")


def test_a_tie_that_open_clip_does_not_have_is_refused(tmp_path: Path) -> None:
    network, adapter = small_image_text("open_clip")
    ties = {"ln_final.bias": "ln_final.weight"}
    encoded = encode(network)
    write_artifact(
        tmp_path / "a", encoded, model_class="open_clip.CLIP", aliases=ties, files=adapter.files(network)
    )
    with pytest.raises(ArtifactError, match=r"has no tied weights, found 'ln_final.bias'"):
        fulgurite.load(tmp_path / "a")


def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path) -> None:
    network, adapter = small_image_text("open_clip")
    encoded = encode(network)
    values = torch.ones(32, dtype=torch.int64)
    encoded["ln_final.bias"] = Encoded(RAW, (32,), "int64", {"values": values})
    write_artifact(tmp_path / "a", encoded, model_class="open_clip.CLIP", files=adapter.files(network))
    with pytest.raises(
        ArtifactError, match=r"'ln_final.bias' has dtype 'int64', the network's is torch.float32"
    ):
        fulgurite.load(tmp_path / "a")


def test_an_artefact_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    network, adapter = small_image_text("open_clip")
    files = {CONFIG: adapter.files(network)[CONFIG]}
    write_artifact(tmp_path / "a", encode(network), model_class="open_clip.CLIP", files=files)
    with pytest.raises(ArtifactError, match=r"expected a tokenizer \(tokenizer.json\)"):
        fulgurite.load(tmp_path / "a")


def test_inspect_reads_the_artefact(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fulgurite.cli.inspect import run

    assert run("inspect", [str(artifact), "--weights"]) == 0
    shown = capsys.readouterr().out
    assert "open_clip.CLIP" in shown
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in shown
