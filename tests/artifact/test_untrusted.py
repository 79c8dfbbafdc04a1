"""An artefact is untrusted input: a clear ArtifactError, promptly, whatever was done to it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite import Artifact, ArtifactError
from fulgurite.artifact.files import MANIFEST_FILE, WEIGHTS_FILE
from fulgurite.artifact.manifest import checksum, read_manifest
from fulgurite.artifact.writer import write_artifact
from fulgurite.testing import CONTRACT_CASES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    encoded = {
        f"{name}.weight": codec.encode(torch.randn(16, 24, generator=generator))
        for name, codec in CONTRACT_CASES.items()
    }
    write_artifact(tmp_path / "artifact", encoded, model_class="Net", files={"config.json": b'{"a": 1}'})
    return tmp_path / "artifact"


def test_truncation_at_every_header_byte_is_refused(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in [*range(0, header, 7), header, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match="model.safetensors"):
            Artifact(folder)


def test_each_flipped_byte_of_the_weights_is_found(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for position in range(header, len(data), 97):  # 97: a prime, hits every part of every weight
        data[position] ^= 0x10
        path.write_bytes(bytes(data))
        with pytest.raises(ArtifactError, match=r"checksum [0-9a-f]+, the manifest says [0-9a-f]+"):
            Artifact(folder)
        data[position] ^= 0x10


def test_an_altered_configuration_is_found(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": 2}')
    with pytest.raises(ArtifactError, match="config.json: the file has checksum"):
        Artifact(folder)


def test_the_error_names_the_weight(folder: Path) -> None:
    stored = read_manifest(folder).stored["uniform4.weight"]
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[stored.start] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"weight 'uniform4.weight' has checksum"):
        Artifact(folder)


def test_a_header_that_claims_too_much_is_refused_before_reading(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    data = path.read_bytes()
    path.write_bytes((1 << 60).to_bytes(8, "little") + data[8:])
    with pytest.raises(ArtifactError, match="header at byte 8 claims 1152921504606846976 bytes"):
        Artifact(folder)


Change = Callable[[dict[str, Any]], None]


def _set(key: str, value: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest[key] = value

    return change


def _layout(key: str, value: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest["layouts"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("format", "fulgurite-artifact/9"),
            "expected format 'fulgurite-artifact/1' or 'fulgurite-delta/1', got",
        ),
        (_set("weights", []), "malformed manifest"),
        (_set("layouts", {}), "malformed manifest"),
        (_set("aliases", {"x": "no such weight"}), "is not a weight of it"),
        (_set("files", {"../../etc/passwd": "00"}), "lies outside the folder"),
        (_set("files", {"missing.json": "00"}), "the manifest lists it"),
        (_layout("shape", [1 << 40, 1 << 20]), "."),
        (_layout("shape", [-1, 24]), "must not be negative"),
        (_layout("codec", "nonsense"), "."),
        (_layout("parts", [["codes", "U8", [1 << 50]]]), "needs 1125899906842624 bytes"),
        (_layout("parts", [["codes", "Q9", [3]]]), "malformed manifest"),
        (_layout("parts", [["codes", "I32", [-1]]]), "malformed manifest"),
        (_layout("parts", [["codes", "U8", [-1]], ["more", "U8", [3]]]), "malformed manifest"),
        (_layout("parts", [["codes", "U8", [1 << 50]], ["more", "U8", [-1]]]), "fewer than the parts before"),
    ],
)
def test_a_forged_manifest_is_refused(folder: Path, change: Change, message: str) -> None:
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message):
        _read_all(folder)


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 20], [384], [0, 24], [24, 17]])
def test_a_forged_shape_with_a_valid_checksum_is_refused(folder: Path, shape: list[int]) -> None:
    """Who forges a manifest can forge its checksums too: then the bounds must hold."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    index = manifest["weights"]["uniform4.weight"][0]
    manifest["layouts"][index]["shape"] = shape
    path.write_text(json.dumps(manifest))
    _reseal(folder, manifest)
    if shape == [384]:  # the same number of weights in another shape decodes; the network's own shape tells
        assert Artifact(folder).manifest.layout("uniform4.weight").shape == (384,)
        return
    with pytest.raises(ArtifactError, match="uniform4.weight|layout"):
        _read_all(folder)


@pytest.mark.parametrize("value", [1 << 62, -1, 0, "many", None, [1]])
def test_forged_settings_are_refused(folder: Path, value: Any) -> None:
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    index = manifest["weights"]["uniform4.weight"][0]
    manifest["layouts"][index]["meta"]["bits"] = value
    path.write_text(json.dumps(manifest))
    _reseal(folder, manifest)
    with pytest.raises(ArtifactError, match="uniform4.weight"):
        _read_all(folder)


def test_foreign_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="is .* an artefact folder"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("not json")
    with pytest.raises(ArtifactError, match="expected JSON"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text('{"format": "fulgurite-artifact/1"}')
    with pytest.raises(ArtifactError, match="an artefact keeps its weights there"):
        read_manifest(tmp_path)


def test_extra_and_missing_tensors_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    removed = dict(manifest, weights={k: v for k, v in manifest["weights"].items() if k != "fp16.weight"})
    (folder / MANIFEST_FILE).write_text(json.dumps(removed))
    with pytest.raises(ArtifactError, match="does not list 'fp16.weight'"):
        read_manifest(folder)
    added = dict(manifest, weights={**manifest["weights"], "ghost": [0, "00"]})
    (folder / MANIFEST_FILE).write_text(json.dumps(added))
    with pytest.raises(ArtifactError, match="lists 'ghost'"):
        read_manifest(folder)
    shutil.rmtree(folder)


def _read_all(folder: Path) -> None:
    artifact = Artifact(folder)
    for name in artifact:
        artifact.decode(name)


def _reseal(folder: Path, manifest: dict[str, Any]) -> None:
    """Give every weight the checksum that belongs to its forged layout."""
    parsed = read_manifest(folder)
    data = (folder / WEIGHTS_FILE).read_bytes()
    for name in parsed.weights:
        stored = parsed.stored[name]
        manifest["weights"][name][1] = checksum(
            data[stored.start : stored.stop], parsed.layouts[parsed.weights[name][0]]
        )
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
