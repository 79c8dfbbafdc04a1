"""``fulgurite analyze`` over whole networks: a language model, a text encoder and a CLIP, each with an artefact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite._hooks import network_class_name
from fulgurite.artifact.writer import write_artifact
from fulgurite.cli.main import main
from fulgurite.codecs import Float16Codec, UniformCodec
from fulgurite.models import tied_names, unique_parameters
from fulgurite.testing import small_image_text


def write_coded(folder: Path, network: Any, files: dict[str, bytes], bits: int = 3) -> None:
    """An artefact with matrices of so many bits."""
    coded = {
        name: (UniformCodec(bits=bits, group_size=16) if weight.dim() > 1 else Float16Codec()).encode(
            weight.data
        )
        for name, weight in unique_parameters(network).items()
    }
    names = tied_names(network)
    write_artifact(folder, coded, model_class=network_class_name(network), aliases=names, files=files)


def write_recipe(path: Path, model: dict[str, Any], data: dict[str, Any]) -> Path:
    content = {"model": model, "data": data, "trainer": {"accelerator": "cpu"}}
    path.write_text(yaml.safe_dump({**content, "cascade": {"stages": {"one": {"codec": "UniformCodec"}}}}))
    return path


@pytest.fixture(scope="module")
def encoder(
    tiny_encoder: Path, rated_sentences: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Recipe and artefact of a text encoder."""
    from lightning_modules import TextEncoder

    folder = tmp_path_factory.mktemp("analysed")
    module = TextEncoder(source=str(tiny_encoder))
    module.configure_model()
    write_coded(folder / "artifact", module.network, module.artifact_files())
    data = {"train": "train.jsonl", "test": "test.jsonl", "evaluation_split": "test", "batch_size": 8}
    recipe = write_recipe(
        folder / "recipe.yaml",
        {"class_path": "lightning_modules.TextEncoder", "init_args": {"source": str(tiny_encoder)}},
        {
            "class_path": "datamodules.SentencesDataModule",
            "init_args": {**data, "data_dir": str(rated_sentences)},
        },
    )
    return recipe, folder


Analyse = Callable[..., dict[str, Any]]


@pytest.fixture
def analyse(capsys: pytest.CaptureFixture[str]) -> Analyse:
    """Run the command and read what it prints."""

    def run(verb: str, recipe: Path, folder: Path, *flags: str) -> dict[str, Any]:
        capsys.readouterr()
        status = main(["analyze", verb, "-", str(folder), "--config", str(recipe), "--json", *flags])
        shown = capsys.readouterr()
        assert status == 0, shown.err
        found: dict[str, Any] = json.loads(shown.out)
        return found

    return run


def test_subspaces_of_a_text_encoder_with_a_page(
    encoder: tuple[Path, Path], analyse: Analyse, tmp_path: Path
) -> None:
    found = analyse("subspaces", *encoder, "--batches", "2", "--output_dir", str(tmp_path))
    weights = {one["name"]: one for one in found["weights"]}
    inputs = {one["name"]: one for one in found["inputs"]}
    name = "encoder.layer.0.attention.self.query.weight"
    assert 0.5 < weights[name]["right"]["overlap"] < 1  # 3 bits change it, and do not destroy it
    assert inputs[name]["cka"] > 0.8
    assert "embeddings.word_embeddings.weight" not in inputs
    assert name in (tmp_path / "subspaces.md").read_text().replace("\\", "")
    assert (tmp_path / "subspaces.png").stat().st_size > 0


def test_sensitivity_of_a_text_encoder_by_its_divergence_and_by_its_measure(
    encoder: tuple[Path, Path], analyse: Analyse
) -> None:
    by_block = analyse("sensitivity", *encoder, "--by", "block", "--limit", "8")
    assert by_block["reference"] == pytest.approx(0, abs=1e-6)
    assert by_block["damage"]["low"] > 0
    assert {"encoder.layer.0", "encoder.layer.1"} < {one["name"] for one in by_block["layers"]}
    measured = analyse("sensitivity", *encoder, "--by", "block", "--measure", "fidelity", "--limit", "20")
    assert measured["items"] == 20
    assert measured["reference"] > measured["compressed"]


def test_sparsity_and_profile_of_a_text_encoder(encoder: tuple[Path, Path], analyse: Analyse) -> None:
    sparsity = analyse("sparsity", *encoder, "--select", "*.query.weight", "--patterns", "2:4")
    assert [one["weight"] for one in sparsity["after"]] == [
        *(f"encoder.layer.{layer}.attention.self.query.weight" for layer in (0, 1)),
        "total",
    ]
    profiles = analyse("profile", *encoder, "--passes", "1", "--top", "3")
    assert set(profiles) == {"reference", "artefact", "artefact, packed"}
    # decoding is what a packed network does more
    assert profiles["artefact, packed"]["total_ms"] > 0


def test_a_clip_is_analysed_through_its_module(tmp_path: Path, analyse: Analyse) -> None:
    pytest.importorskip("open_clip")
    network, adapter = small_image_text("open_clip")
    adapter.save(network, tmp_path / "network")
    write_coded(tmp_path / "artifact", network, adapter.files(network))
    shapes = {"train": 40, "validation": 24, "side": 32, "batch_size": 8}
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        {"class_path": "lightning_modules.Clip", "init_args": {"source": str(tmp_path / "network")}},
        {"class_path": "datamodules.ShapesDataModule", "init_args": shapes},
    )
    found = analyse("subspaces", recipe, tmp_path, "--batches", "1", "--rank", "4")
    inputs = {one["name"]: one for one in found["inputs"]}
    # of both towers, the fused projections of attention and a convolution
    for name in ("visual.conv1.weight", "visual.transformer.resblocks.0.attn.in_proj_weight"):
        assert inputs[name]["count"] > 0
    assert "transformer.resblocks.0.mlp.c_fc.weight" in inputs
    sensitivity = analyse("sensitivity", recipe, tmp_path, "--by", "block", "--limit", "4")
    assert "visual.transformer.resblocks.0" in {one["name"] for one in sensitivity["layers"]}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["sensitivity", "--measure", "bleu"], "--measure must be one of divergence, spearman"),
        (["subspaces", "--select", "none.*"], 'matches select "none.*"'),
        (["subspaces", "--energy", "2"], "--energy must be above 0 and at most 1, got 2.0"),
        (["sparsity", "--patterns", "2:4:8"], "2:4:8"),
        (["profile", "--passes", "0"], "--passes must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(
    flags: list[str], said: str, encoder: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = encoder
    verb, *rest = flags
    assert main(["analyze", verb, "-", str(folder), "--config", str(recipe), *rest]) in (1, 2)
    assert said in capsys.readouterr().err


def test_an_artefact_of_another_network_is_refused(
    encoder: tuple[Path, Path], tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertModel

    from lightning_modules import TextEncoder

    module = TextEncoder(source=str(tiny_encoder))
    module.configure_model()
    other = BertModel(
        type(module.network.config)(**{**module.network.config.to_dict(), "intermediate_size": 64})
    )
    files = module.artifact_files()
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps({**config, "intermediate_size": 64}).encode()
    write_coded(tmp_path / "artifact", other, files)
    assert main(["analyze", "subspaces", "-", str(tmp_path), "--config", str(encoder[0])]) == 1
    assert "must have the same shape, got [72, 32] and [64, 32]" in capsys.readouterr().err


def test_a_folder_without_an_artefact_is_refused(
    encoder: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "sparsity", "-", str(tmp_path), "--config", str(encoder[0])]) == 1
    assert str(tmp_path) in capsys.readouterr().err
