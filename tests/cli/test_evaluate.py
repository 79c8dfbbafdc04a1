"""``fulgurite evaluate`` on what it cannot measure names the command that can."""

from pathlib import Path

import pytest

from fulgurite._hooks import network_class_name
from fulgurite.artifact.writer import write_artifact
from fulgurite.cli.main import main
from fulgurite.codecs import Float16Codec
from fulgurite.models import tied_names, unique_parameters
from fulgurite.testing import small_image_text


def artifact(kind: str, folder: Path) -> Path:
    network, adapter = small_image_text(kind)
    write_artifact(
        folder,
        {name: Float16Codec().encode(weight.detach()) for name, weight in unique_parameters(network).items()},
        model_class=network_class_name(network),
        aliases=tied_names(network),
        files=adapter.files(network),
    )
    return folder


@pytest.mark.parametrize("text", [[], ["--text", "a.txt"]], ids=["no text", "text"])
@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("open_clip", "Clip", "artifact"),
        ("clip", "Clip", "artifact"),
        ("blip_caption", "Blip", "run/artifact"),
    ],
)
def test_an_artefact_of_pictures_is_sent_to_test(
    kind: str, module: str, name: str, text: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(kind, tmp_path / name)
    given = folder.parent if name.startswith("run/") else folder  # a run's folder stands for its artefact
    assert main(["evaluate", str(given), *text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {given} reads pictures and texts")
    assert line.endswith(f"fulgurite test --model {module} --model.source {folder} --config DATA.yaml")


def test_other_networks_still_need_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "required: --text" in capsys.readouterr().err
