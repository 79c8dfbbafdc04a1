"""Artefacts that are none, or were altered: refused in one sentence by whatever reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from error_lines import Capture, eight, sentence
from safetensors.torch import save_file

from fulgurite.cli.main import main

Compress = Callable[..., tuple[int, Path]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves in the current folder is left in the test's."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def artifact(
    trained_network: Path, small_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One artefact, to be copied and altered."""
    folder = tmp_path_factory.mktemp("artifact")
    model = {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(trained_network)}}
    cascade = {
        "threads": 1,
        "limit_windows": 5,
        "report": False,
        "cache_dir": str(folder / "cache"),
        **eight(),
    }
    content = {"model": model, "data": small_data, "cascade": cascade, "trainer": {"accelerator": "cpu"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    command = ["compress", "--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "run")]
    assert main(command) in (0, 3)
    return folder / "run/stages/eight/try-1/artifact"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("model.safetensors", flip, "the file was altered or cut short"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "model.safetensors"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes() + b"x"), "model.safetensors"),
        ("model.safetensors", Path.unlink, "no such file"),
        ("fulgurite.json", lambda path: path.write_bytes(path.read_bytes()[:100]), "expected JSON"),
        ("fulgurite.json", Path.unlink, "is not an artefact|no such file"),
        ("config.json", Path.unlink, "config.json"),
        ("tokenizer.json", Path.unlink, "tokenizer.json"),
        ("tokenizer.json", flip, "tokenizer.json"),
    ],
)
def test_an_altered_artifact_is_refused(
    artifact: Path,
    tmp_path: Path,
    small_text: Path,
    capsys: Capture,
    name: str,
    damage: Callable[[Path], None],
    expected: str,
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "copy"))
    damage(folder / name)
    for command in (["inspect"], ["evaluate", "--text", str(small_text), "--window", "64", "--limit", "2"]):
        capsys.readouterr()
        assert main([command[0], str(folder), *command[1:]]) == 1
        said = sentence(capsys)
        assert any(part in said for part in expected.split("|")), (command[0], said)


def test_an_artifact_without_weights_is_refused(tmp_path: Path, capsys: Capture) -> None:
    save_file({}, tmp_path / "model.safetensors")
    manifest = {"format": "fulgurite-artifact/1", "created_by": "", "model_class": "LlamaForCausalLM"}
    empty: dict[str, Any] = {"aliases": {}, "layouts": [], "weights": {}, "shared": {}, "files": {}}
    (tmp_path / "fulgurite.json").write_text(json.dumps({**manifest, **empty}))
    assert main(["inspect", str(tmp_path)]) == 1
    assert "fulgurite.json" in sentence(capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["inspect", "none"], "no such folder"),
        (["inspect", "."], "no such file; is . an artefact folder?"),
        (["report", "none"], "no such record"),
        (["report", "."], "record.json: no such record"),
        (["evaluate", "./none", "--text", "stdlib"], "./none: expected a folder"),
    ],
)
def test_a_folder_that_is_none_is_named(
    tmp_path: Path, capsys: Capture, arguments: list[str], expected: str
) -> None:
    assert main(arguments) == 1
    assert expected in sentence(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--limit", "--window", "--batch_size"])
def test_evaluate_names_its_own_flags(
    trained_network: Path, small_text: Path, capsys: Capture, flag: str
) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(trained_network), "--text", str(small_text), flag, "0"]) in (1, 2)
    assert flag.lstrip("-") + " must be at least 1, got 0" in sentence(capsys)
