"""What is written is what is read, to the byte."""

import json
from pathlib import Path

import pytest
import torch

from fulgurite.artifact import files
from fulgurite.artifact.manifest import read_manifest
from fulgurite.artifact.reader import RAW, Artifact
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import EcqCodec, Encoded, decode
from fulgurite.testing import CONTRACT_CASES


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CONTRACT_CASES)
def test_every_codec_survives_the_file(case: str, tmp_path: Path) -> None:
    encoded = {
        "a.weight": CONTRACT_CASES[case].encode(weight(24, 40)),
        "b.weight": CONTRACT_CASES[case].encode(weight(7, 13).half()),
        "c.bias": CONTRACT_CASES[case].encode(weight(5)),
    }
    write_artifact(tmp_path / "artifact", encoded, model_class="Net", files={"config.json": b"{}"})
    artifact = Artifact(tmp_path / "artifact")
    assert list(artifact) == list(encoded)
    for name, entry in encoded.items():
        read = artifact.encoded(name)
        assert read.meta == entry.meta
        for part, values in entry.tensors.items():
            assert torch.equal(read.tensors[part], values), (name, part)
        assert torch.equal(artifact.decode(name), decode(entry))


@pytest.mark.parametrize("case", CONTRACT_CASES)
def test_num_bytes_equals_the_bytes_in_the_file(case: str, tmp_path: Path) -> None:
    encoded = CONTRACT_CASES[case].encode(weight(24, 40))
    manifest = write_artifact(tmp_path / "artifact", {"a": encoded}, model_class="Net")
    stored = manifest.stored["a"]
    assert stored.stop - stored.start == encoded.num_bytes


def test_bytes_by_part_add_up_to_the_files(tmp_path: Path) -> None:
    encoded = {name: CONTRACT_CASES["uniform4"].encode(weight(16, 40)) for name in "ab"}
    extra = {"config.json": b"{}", "tokenizer.json": b"0123456789"}
    manifest = write_artifact(tmp_path / "artifact", encoded, model_class="Net", files=extra)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "artifact").iterdir())
    assert sum(manifest.bytes_by_part().values()) == manifest.num_bytes == on_disk - 10
    assert manifest.tokenizer_bytes == 10


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for run in ("one", "two"):
        encoded = {name: codec.encode(weight(16, 40)) for name, codec in CONTRACT_CASES.items()}
        write_artifact(tmp_path / run, encoded, model_class="Net", files={"config.json": b"{}"})
    assert files.sha256_folder(tmp_path / "one") == files.sha256_folder(tmp_path / "two")


def test_equal_parts_are_stored_once(tmp_path: Path) -> None:
    codebook = weight(256, 4).half()
    meta = {"bits": 8}
    encoded = {
        name: Encoded(
            "vptq",
            (8, 16),
            "float32",
            {"codes": torch.full((32,), row, dtype=torch.uint8), "codebook": codebook},
            meta,
        )
        for row, name in enumerate(["a", "b", "c"])
    }
    manifest = write_artifact(tmp_path / "artifact", encoded, model_class="Net")
    assert list(manifest.shared) == ["fulgurite.shared.0"]
    assert manifest.bytes_by_part()["codebooks"] == codebook.nbytes
    artifact = Artifact(tmp_path / "artifact")
    assert all(torch.equal(artifact.encoded(name).tensors["codebook"], codebook) for name in encoded)


def test_streams_of_different_lengths_have_one_layout(tmp_path: Path) -> None:
    codec = EcqCodec(rate=2.0)
    encoded = {"a": codec.encode(weight(32, 40)), "b": codec.encode(weight(32, 40).sin())}
    assert encoded["a"].num_bytes != encoded["b"].num_bytes
    manifest = write_artifact(tmp_path / "artifact", encoded, model_class="Net")
    assert len(manifest.layouts) == 1
    for name, entry in encoded.items():
        assert sum(part.num_bytes for part in manifest.layout(name).own_parts) == entry.num_bytes
        assert torch.equal(Artifact(tmp_path / "artifact").decode(name), decode(entry))


def test_integer_buffers_are_kept_as_they_are(tmp_path: Path) -> None:
    positions = torch.arange(7)
    encoded = {"positions": Encoded(RAW, (7,), "int64", {"values": positions})}
    write_artifact(tmp_path / "artifact", encoded, model_class="Net")
    assert torch.equal(Artifact(tmp_path / "artifact").decode("positions"), positions)


def test_a_failed_write_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = {"a": CONTRACT_CASES["uniform4"].encode(weight(16, 40))}
    write_artifact(tmp_path / "artifact", encoded, model_class="Old")
    before = files.sha256_folder(tmp_path / "artifact")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        write_artifact(tmp_path / "artifact", encoded, model_class="New")
    assert files.sha256_folder(tmp_path / "artifact") == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"], "no half-written folder stays behind"


def test_the_disk_filling_up_for_real_leaves_the_old_artifact(tmp_path: Path) -> None:
    """A file size limit of the process stands for a full disk: writes fail half-way with a real OSError."""
    import subprocess
    import sys

    small = {"a": CONTRACT_CASES["uniform4"].encode(weight(16, 40))}
    write_artifact(tmp_path / "artifact", small, model_class="Old")
    before = files.sha256_folder(tmp_path / "artifact")
    script = f"""
import resource, signal, torch
from fulgurite.codecs import UniformCodec
from fulgurite.artifact.writer import write_artifact
encoded = {{"a": UniformCodec(bits=8).encode(torch.randn(512, 512))}}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write_artifact({str(tmp_path / "artifact")!r}, encoded, model_class="New")
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode != 0
    assert "File too large" in finished.stderr
    assert files.sha256_folder(tmp_path / "artifact") == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_manifest_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    encoded = {"a": CONTRACT_CASES["uniform4"].encode(weight(16, 40))}
    write_artifact(tmp_path / "artifact", encoded, model_class="Net")
    text = (tmp_path / "artifact" / "fulgurite.json").read_text()
    assert str(tmp_path) not in text
    assert read_manifest(tmp_path / "artifact").created_by == json.loads(text)["created_by"]
