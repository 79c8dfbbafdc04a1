"""A fine-tuned network stored as what it has over its base: bytes, what is loaded, bad input."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fulgurite
from fulgurite.artifact.files import sha256_folder
from fulgurite.cli.main import main
from fulgurite.models import load_causal_lm, load_tokenizer, save_causal_lm, unique_parameters
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]

LENIENT = {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01}
FROZEN = "model.embed_tokens.weight"


def stage(name: str, settings: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"codec": {"class_path": name, "init_args": settings or {}}, "select": "*.layers.*", **more}


@pytest.fixture(scope="module")
def tuned(trained_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network with a small change of all but its embedding, as fine-tuning leaves it."""
    network = load_causal_lm(trained_network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in unique_parameters(network).items():
            if name != FROZEN:
                weight += 0.02 * weight.std() * torch.randn(weight.shape, generator=generator)
    folder = tmp_path_factory.mktemp("tuned") / "network"
    return save_causal_lm(network, load_tokenizer(trained_network), folder)


@pytest.fixture(scope="module")
def base(compress_in: Compress, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network at four bits a weight."""
    cascade = {"gate": LENIENT, "stages": {"four": stage("UniformCodec", {"bits": 4})}}
    status, folder = compress_in(tmp_path_factory.mktemp("base"), cascade, name="base")
    assert status == 0
    return folder


def over(base: Path, tuned: Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    cascade = {
        "gate": LENIENT,
        "base": str(base),
        "stages": {"delta": stage("DareCodec", {"drop": 0.5})},
        **more,
    }
    return cascade, ["--model.source", str(tuned)]


def test_a_delta_is_loaded_as_the_sum(
    compress: Compress, base: Path, tuned: Path, trained_network: Path
) -> None:
    cascade, arguments = over(base, tuned, base_source=str(trained_network))
    status, folder = compress(cascade, *arguments)
    assert status == 0
    delta = fulgurite.Artifact(folder / "artifact")
    below = fulgurite.Artifact(base / "artifact")
    network = fulgurite.load(folder / "artifact")
    for name, weight in unique_parameters(network).items():
        assert torch.equal(weight, below.decode(name) + delta.decode(name)), name
    layer = "model.layers.0.mlp.up_proj.weight"
    exact = (
        unique_parameters(load_causal_lm(tuned))[layer]
        - unique_parameters(load_causal_lm(trained_network))[layer]
    )
    kept = delta.decode(layer) != 0
    assert 0.45 < float(kept.float().mean()) < 0.55  # of 4,224 entries, drop is 0.5
    # of two networks: their sizes tell that it is of the fine-tuning alone, not of the base's error
    assert torch.equal((delta.decode(layer) * exact)[kept] > 0, torch.ones(int(kept.sum()), dtype=torch.bool))
    record = read_record(folder)
    assert record["artifact"]["base"]["num_bytes"] == below.manifest.num_bytes
    assert record["artifact"]["num_bytes"] == delta.manifest.num_bytes


def test_an_embedding_that_was_not_trained_is_not_stored(
    compress: Compress, base: Path, tuned: Path, trained_network: Path
) -> None:
    cascade, arguments = over(base, tuned, base_source=str(trained_network))
    _, folder = compress(cascade, *arguments)
    delta = fulgurite.Artifact(folder / "artifact")
    assert delta.encoded(FROZEN).num_bytes < 20
    assert torch.equal(delta.whole(FROZEN), fulgurite.Artifact(base / "artifact").decode(FROZEN))


def test_a_delta_over_the_decoded_base_makes_up_for_its_errors(
    compress: Compress, base: Path, tuned: Path, trained_network: Path
) -> None:
    exact = stage("Float16Codec")
    found = {}
    for source in (None, str(trained_network)):
        cascade, arguments = over(base, tuned, base_source=source, stages={"delta": exact})
        _, folder = compress(cascade, *arguments, "--restart")
        network = fulgurite.load(folder / "artifact")
        layer = "model.layers.1.mlp.down_proj.weight"
        error = network.get_parameter(layer) - load_causal_lm(tuned).get_parameter(layer)
        found[source] = float(error.detach().abs().max())
    assert found[None] < 1e-4  # 16-bit rounding of what four bits leave
    assert found[str(trained_network)] > 1e-3  # of the four bits


def test_any_codec_and_refinement_work_over_a_base(compress: Compress, base: Path, tuned: Path) -> None:
    stages = {
        "coarse": stage("EcqCodec", {"rate": 2, "states": 1}, refine={"steps": 8}),
        "again": stage("SparseCodec", {"sparsity": 0.5, "bits": 4}, source="previous"),
    }
    cascade, arguments = over(base, tuned, stages=stages)
    status, folder = compress(cascade, *arguments)
    record = read_record(folder)
    assert status == 0
    tried = record["stages"][0]["tries"][0]
    assert tried["refine"]["loss_last"] <= tried["refine"]["loss_first"]
    assert tried["refine"]["loss_first"] < 0.5  # nats: of base plus delta, not of a delta taken for weights
    assert tried["gate"]["retention"] > 0.9
    assert {layer["codec"] for layer in record["stages"][1]["tries"][0]["layers"]} == {"sparse"}


def test_bits_are_allocated_over_a_base(compress: Compress, base: Path, tuned: Path) -> None:
    allocate = {"bits_per_weight": 1.5}
    try_stage = stage("EcqCodec", {"states": 1}, allocate=allocate)
    cascade, arguments = over(base, tuned, stages={"delta": try_stage})
    status, folder = compress(cascade, *arguments)
    stages = read_record(folder)["stages"]
    assert status == 0
    assert stages[0]["tries"][0]["gate"]["retention"] > 0.9


def test_a_resumed_run_has_the_bytes_of_a_whole_one(compress: Compress, base: Path, tuned: Path) -> None:
    cascade, arguments = over(base, tuned)
    _, whole = compress(cascade, *arguments, name="whole")
    _, again = compress(cascade, *arguments, name="again")
    shutil.rmtree(again / "artifact")
    for path in again.glob("stages/*/try-*/try.json"):
        path.unlink()
    compress(cascade, *arguments, name="again")
    assert sha256_folder(again / "artifact") == sha256_folder(whole / "artifact")


def test_deltas_over_one_base_are_merged(compress: Compress, base: Path, tuned: Path) -> None:
    cascade, arguments = over(base, tuned)
    _, one = compress(cascade, *arguments, name="one")
    cascade["stages"]["delta"]["codec"]["init_args"]["seed"] = 1
    _, other = compress(cascade, *arguments, name="other")
    deltas = [folder / "artifact" for folder in (one, other)]
    merged = fulgurite.merge(base / "artifact", deltas, [0.25, 0.5])
    layer = "model.layers.0.self_attn.q_proj.weight"
    below = fulgurite.Artifact(base / "artifact").decode(layer)
    first, second = (fulgurite.Artifact(folder).decode(layer) for folder in deltas)
    torch.testing.assert_close(merged.get_parameter(layer).data, below + 0.25 * first + 0.5 * second)
    assert not torch.equal(first, second)
    alone = fulgurite.merge(base / "artifact", deltas[:1])
    for name, weight in unique_parameters(fulgurite.load(deltas[0])).items():
        torch.testing.assert_close(alone.get_parameter(name), weight)
    with pytest.raises(ValueError, match="expected a weight for each of 2 deltas"):
        fulgurite.merge(base / "artifact", deltas, [1.0])
    with pytest.raises(fulgurite.ArtifactError, match="expected a delta over"):
        fulgurite.merge(base / "artifact", [base / "artifact"])


def test_a_delta_goes_with_its_base_and_no_other(
    compress: Compress, base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, tmp_path / "base")
    cascade, arguments = over(Path("base"), tuned)
    _, folder = compress(cascade, *arguments)
    expected = unique_parameters(fulgurite.load(folder / "artifact"))
    # a tree that was moved whole
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("base", "run"):
        shutil.copytree(tmp_path / name, moved / name)
        shutil.rmtree(tmp_path / name)
    monkeypatch.chdir("/")
    for name, weight in unique_parameters(fulgurite.load(moved / "run" / "artifact")).items():
        assert torch.equal(weight, expected[name]), name
    # a base that was moved alone, found where it is said to be
    (moved / "base").rename(moved / "other")
    with pytest.raises(
        fulgurite.ArtifactError, match=r"a delta over base/artifact with checksum \w+, found none"
    ):
        fulgurite.load(moved / "run" / "artifact")
    network = fulgurite.load(moved / "run" / "artifact", base=moved / "other" / "artifact")
    assert torch.equal(network.get_parameter(FROZEN), expected[FROZEN])
    # not the one that it was made over
    with pytest.raises(fulgurite.ArtifactError, match="found .*run/artifact with checksum"):
        fulgurite.load(moved / "run" / "artifact", base=moved / "run" / "artifact")
    with pytest.raises(fulgurite.ArtifactError, match="no delta, so it has no base"):
        fulgurite.load(moved / "other" / "artifact", base=moved / "run" / "artifact")


def test_transformers_loads_a_delta_by_itself_and_not_packed(
    compress: Compress, base: Path, tuned: Path
) -> None:
    from transformers import AutoModelForCausalLM

    cascade, arguments = over(base, tuned)
    _, folder = compress(cascade, *arguments)
    expected = fulgurite.load(folder / "artifact")
    network = AutoModelForCausalLM.from_pretrained(folder / "artifact")
    for name, weight in unique_parameters(expected).items():
        assert torch.equal(network.get_parameter(name), weight), name
    with pytest.raises(fulgurite.ArtifactError, match="packed must be false"):
        fulgurite.load(folder / "artifact", packed=True)


def test_inspect_tells_what_a_delta_is_over(
    compress: Compress, base: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cascade, arguments = over(base, tuned)
    _, folder = compress(cascade, *arguments)
    capsys.readouterr()
    assert main(["inspect", str(folder)]) == 0
    assert f"a delta: to be added to {base / 'artifact'} with checksum" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "shape", "names", "structure", "source alone", "source"])
def test_what_cannot_be_a_base_is_refused(
    kind: str,
    compress: Compress,
    base: Path,
    tuned: Path,
    tmp_path: Path,
    tiny_encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cascade, arguments = over(base, tuned)
    if kind == "missing":
        cascade["base"] = str(tmp_path / "nothing")
        said = "expected an artefact with fulgurite.json|no such folder"
    elif kind == "shape":
        arguments = ["--model.source", str(_other(tuned, tmp_path, intermediate_size=64))]
        said = r"shape \[88, 48\], the fine-tuned network's is \[64, 48\]"
    elif kind == "names":
        arguments = ["--model.source", str(_other(tuned, tmp_path, num_hidden_layers=3))]
        said = r"expected the weights of the fine-tuned network, found no model.layers.2.\S+ and 8 more"
    elif kind == "structure":
        cascade["stages"] = {"repair": {"class_path": "callbacks.stages.RepairStage"}}
        said = "over a base, stages code weights; repair is a RepairStage"
    elif kind == "source alone":
        cascade = {"gate": LENIENT, "stages": cascade["stages"], "base_source": str(tuned)}
        said = "cascade.base_source goes with cascade.base"
    else:
        cascade["base_source"] = str(tiny_encoder)
        said = "cascade.base_source: .*encoder0: 6 weights are missing"
    assert compress(cascade, *arguments)[0] == (2 if kind == "source alone" else 1)  # 2: of the recipe itself
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(said, shown), shown


def _other(tuned: Path, tmp_path: Path, **settings: int) -> Path:
    """A network of other sizes with the same tokenizer."""
    from fulgurite.models import build_causal_lm

    config = load_causal_lm(tuned).config.to_dict() | settings
    network = build_causal_lm({key: value for key, value in config.items() if key != "dtype"})
    return save_causal_lm(network, load_tokenizer(tuned), tmp_path / "other")
