"""Stages that make another network: what comes out loads alone, and later stages code it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rank_processes import run_command

import fulgurite
from fulgurite.artifact.files import sha256_folder
from fulgurite.artifact.reader import Artifact
from fulgurite.cli.main import main
from fulgurite.reporting.record import read_record
from lightning_modules.distillation import Distillation

Run = Callable[..., tuple[int, Path]]

LENIENT = {"stage_retention": [0.05], "cumulative": 0.05, "floor": 0.01}
"""A gate for networks of two layers that train for seconds."""

STUDENT: dict[str, Any] = {
    "class_path": "callbacks.stages.DistillStage",
    "init_args": {
        "shape": {"layers": 1, "intermediate_size": 64},
        "windows": 64,
        "steps": 20,
        "checkpoint_every": 5,
    },
}
EIGHT_BITS = {"codec": {"class_path": "UniformCodec", "init_args": {"bits": 8, "group_size": 32}}}


def power_cut() -> None:
    raise RuntimeError("power cut")


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> list[int]:
    """Have ``act`` called before the training's batch number ``at``; gives the steps of all batches seen."""
    step, seen = Distillation.training_step, []

    def watched(self: Distillation, batch: Any, batch_idx: int) -> Any:
        seen.append(self.global_step)
        if len(seen) == at:
            act()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", watched)
    return seen


@pytest.fixture
def distilled(compress: Run) -> Path:
    status, folder = compress({"stages": {"student": STUDENT, "bits": EIGHT_BITS}, "gate": LENIENT})
    assert status == 0
    return folder


def test_a_student_is_what_later_stages_code(distilled: Path) -> None:
    record = read_record(distilled)
    student, bits = record["stages"]
    (attempt,) = student["tries"]
    assert (student["codec"], student["accepted"], bits["accepted"]) == ("distill", True, True)
    assert attempt["structure"]["loss_last"] < attempt["structure"]["loss_first"]
    network = fulgurite.load(distilled / "artifact")
    assert (network.config.num_hidden_layers, network.config.intermediate_size) == (1, 64)
    saved = fulgurite.Artifact(distilled / "stages/student/try-1/artifact")
    name = "model.layers.0.mlp.up_proj.weight"
    exact, coded = saved.decode(name), Artifact(distilled / "artifact").decode(name)
    assert 0 < (exact - coded).abs().max() < 0.02 * exact.abs().max()  # 8 bits of the student's own weights
    assert record["artifact"]["num_bytes"] < record["reference"]["num_bytes"] / 4


def test_a_crash_in_distillation_changes_no_byte(
    distilled: Path, compress: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = interrupt(monkeypatch, 13, power_cut)
    cascade = {"stages": {"student": STUDENT, "bits": EIGHT_BITS}, "gate": LENIENT}
    assert compress(cascade, name="crashed")[0] == 1
    status, folder = compress(cascade, name="crashed")
    assert status == 0
    assert seen[13] == 10  # the last checkpoint, not the beginning
    assert sha256_folder(folder / "artifact") == sha256_folder(distilled / "artifact")
    # a run that has ended goes on from all of it: no step more
    count = len(seen)
    assert compress(cascade, name="crashed")[0] == 0
    assert len(seen) == count


def test_two_ranks_go_on_with_the_student_of_one(distilled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    command = ["compress", "--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(folder)]
    run_command(2, command, tmp_path)
    assert sha256_folder(folder / "artifact") == sha256_folder(distilled / "artifact")


def test_an_average_and_a_slow_codec_survive_a_crash(compress: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise = {"codec": {"class_path": "UniformCodec", "init_args": {"bits": 4}}, "every": 4}
    student = {**STUDENT, "init_args": {**STUDENT["init_args"], "ema": 0.8, "quantise": quantise}}
    cascade = {"stages": {"student": student}, "gate": LENIENT}
    status, whole = compress(cascade, name="whole")
    assert status == 0
    seen = interrupt(monkeypatch, 8, power_cut)
    assert compress(cascade, name="crashed")[0] == 1
    status, folder = compress(cascade, name="crashed")
    assert (status, seen[8]) == (0, 5)  # between two times that the codec is asked
    assert sha256_folder(folder / "artifact") == sha256_folder(whole / "artifact")


@pytest.mark.parametrize(
    ("changed", "stop_at"),
    [({"accumulate": 4}, 6), ({"ema": 0.5}, 8)],
    ids=["within a step", "after the last step"],
)
def test_a_stop_anywhere_changes_no_byte(
    compress: Run, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], stop_at: int
) -> None:
    student = {**STUDENT, "init_args": {**STUDENT["init_args"], "steps": 8, "batch_size": 4, **changed}}
    cascade = {"stages": {"student": student}, "gate": LENIENT}
    assert compress(cascade, name="whole")[0] == 0
    interrupt(monkeypatch, stop_at, lambda: os.kill(os.getpid(), signal.SIGINT))  # what Ctrl-C sends
    status, folder = compress(cascade, name="stopped")
    assert status == 130
    status, folder = compress(cascade, name="stopped")
    assert status == 0
    assert sha256_folder(folder / "artifact") == sha256_folder(folder.parent / "whole/artifact")


def test_a_rejected_student_leaves_the_network_as_it_was(compress: Run) -> None:
    untrained = {**STUDENT, "init_args": {**STUDENT["init_args"], "start": "fresh", "steps": 0}}
    strict = {"stage_retention": [0.9], "cumulative": 0.9}
    status, folder = compress({"stages": {"student": untrained, "bits": EIGHT_BITS}, "gate": strict})
    assert status == 0
    student, bits = read_record(folder)["stages"]
    assert (student["accepted"], bits["accepted"]) == (False, True)
    assert fulgurite.load(folder / "artifact").config.num_hidden_layers == 2


@pytest.mark.parametrize(
    "changed",
    [
        {
            "losses": {"weights": {"logits": 1.0, "hidden": 0.5, "values": 0.1}},
            "shape": {"hidden_size": 24, "heads": 2},
        },
        {
            "losses": {"weights": {"logits": 0.5, "labels": 0.5}, "temperature": 2.0},
            "accumulate": 2,
            "ema": 0.5,
        },
        {
            "quantise": {
                "codec": {"class_path": "UniformCodec", "init_args": {"bits": 4}},
                "rate_weight": 0.01,
            }
        },
        {"losses": {"weights": {"hidden": 1.0, "attentions": 1.0}}},
        {"losses": {"weights": {"labels": 1.0}}},
        {"top_logits": 0, "teacher": "previous", "layers_by": "influence", "grokfast": {"lamb": 1.0}},
    ],
    ids=[
        "inner states",
        "labels and average",
        "quantised",
        "equal widths and maps",
        "labels alone",
        "live teacher",
    ],
)
def test_ways_to_distil(compress: Run, changed: dict[str, Any]) -> None:
    stage = {**STUDENT, "init_args": {**STUDENT["init_args"], "steps": 8, **changed}}
    status, folder = compress({"stages": {"student": stage}, "gate": LENIENT})
    assert status == 0
    assert not (folder / "stages/student/try-1/scratch").exists()
    (attempt,) = read_record(folder)["stages"][0]["tries"]
    assert attempt["structure"]["loss_last"] < attempt["structure"]["loss_first"]


@pytest.fixture
def compress_encoder(tiny_encoder: Path, rated_sentences: Path, tmp_path: Path) -> Run:
    def run(stages: dict[str, Any], name: str = "run", **model: Any) -> tuple[int, Path]:
        data = {"train": "train.jsonl", "test": "test.jsonl", "evaluation_split": "test", "batch_size": 8}
        content = {
            "model": {
                "class_path": "lightning_modules.TextEncoder",
                "init_args": {"source": str(tiny_encoder), **model},
            },
            "data": {
                "class_path": "datamodules.SentencesDataModule",
                "init_args": {**data, "data_dir": str(rated_sentences)},
            },
            "cascade": {
                "stages": stages,
                "threads": 1,
                "cache_dir": str(tmp_path / "cache"),
                "retries": 0,
                "gate": {"stage_retention": [0.5], "cumulative": 0.5, "floor": 0.3},
            },
            "trainer": {"accelerator": "cpu"},
        }
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))
        return main(
            ["compress", "--config", str(recipe), "--output_dir", str(tmp_path / name)]
        ), tmp_path / name

    return run


STATIC = {
    "class_path": "callbacks.stages.StaticEncoderStage",
    "init_args": {"dimensions": 16, "steps": 60, "batch_size": 32},
}


def test_a_static_encoder_turns_texts_into_vectors(compress_encoder: Run) -> None:
    status, folder = compress_encoder({"static": STATIC, "bits": EIGHT_BITS}, measures=["spearman"])
    assert status == 0
    record = read_record(folder)
    assert [stage["codec"] for stage in record["stages"]] == ["static", "uniform"]
    assert json.loads((folder / "artifact/config.json").read_text())["model_type"] == "fulgurite_static"
    encoder = fulgurite.load(folder / "artifact")
    vectors = encoder.encode(["The red cat sits.", "the red cat sits", "A boat near trees"])
    assert vectors.shape == (3, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    again = encoder.encode(["sits cat the red"], batch_size=1)
    assert torch.allclose(again[0], vectors[1], atol=1e-6)  # a mean knows no order
    with pytest.raises(ValueError, match="texts must be a list of at least one"):
        encoder.encode("The red cat sits.")


def test_vectors_of_another_space_have_no_fidelity(
    compress_encoder: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress_encoder({"static": STATIC})[0] == 1
    assert "give the model measures: [spearman]" in capsys.readouterr().err


FEWER_TOKENS = {
    "class_path": "callbacks.stages.VocabularyStage",
    "init_args": {"size": 20, "min_count": 1000},
}


def test_a_teacher_of_other_tokens_is_refused(
    compress_encoder: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"shape": {"layers": 1}, "losses": {"weights": {"vectors": 1.0, "hidden": 1.0}}, "steps": 2}
    student = {**STUDENT, "init_args": settings}
    assert compress_encoder({"vocabulary": FEWER_TOKENS, "student": student})[0] == 1
    assert "of the 20 tokens mean others; give teacher: previous" in capsys.readouterr().err
    assert (
        compress_encoder({"vocabulary": FEWER_TOKENS, "static": STATIC}, "static", measures=["spearman"])[0]
        == 1
    )
    assert "let this stage come before those that change them" in capsys.readouterr().err


def test_a_teacher_reads_texts_in_its_own_tokens(compress_encoder: Run) -> None:
    settings = {"losses": {"weights": {"vectors": 1.0}}, "steps": 60, "windows": 200, "batch_size": 16}
    student = {**STUDENT, "init_args": settings}
    status, folder = compress_encoder({"vocabulary": FEWER_TOKENS, "student": student})
    assert status == 0
    lost, learnt = (
        stage["tries"][0]["gate"]["per_measure"][1]["value"] for stage in read_record(folder)["stages"]
    )
    # fidelity to the first network, of words that the student cannot tell apart: it learns the best vector for them
    assert 1 - learnt < 0.6 * (1 - lost)


def test_vectors_of_a_narrower_student_are_refused(
    compress_encoder: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"hidden_size": 16, "heads": 1}
    student = {**STUDENT, "init_args": {"shape": shape, "losses": {"weights": {"contrastive": 1.0}}}}
    assert compress_encoder({"student": student}, measures=["spearman"])[0] == 1
    assert "contrastive need the teacher's 32 dimensions, the student has 16" in capsys.readouterr().err


def test_a_crash_in_the_training_of_an_encoder_changes_no_byte(
    compress_encoder: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its configuration has dropout, and the projections of hidden states begin at random
    settings = {
        "shape": {"hidden_size": 16, "heads": 1},
        "losses": {"weights": {"similarity": 1.0, "hidden": 1.0}},
        "steps": 10,
        "checkpoint_every": 4,
    }
    stages = {"student": {**STUDENT, "init_args": settings}}
    status, whole = compress_encoder(stages, "whole", measures=["spearman"])
    assert status == 0
    seen = interrupt(monkeypatch, 7, power_cut)
    assert compress_encoder(stages, "crashed", measures=["spearman"])[0] == 1
    status, folder = compress_encoder(stages, "crashed", measures=["spearman"])
    assert (status, seen[7]) == (0, 4)
    assert sha256_folder(folder / "artifact") == sha256_folder(whole / "artifact")


def test_an_encoder_keeps_the_tokens_of_its_text(compress_encoder: Run) -> None:
    vocabulary = {"class_path": "callbacks.stages.VocabularyStage", "init_args": {"size": 25, "min_count": 1}}
    student = {
        **STUDENT,
        "init_args": {
            "shape": {"layers": 1},
            "losses": {"weights": {"vectors": 1.0}},
            "teacher": "previous",
            "steps": 9,
        },
    }
    status, folder = compress_encoder({"vocabulary": vocabulary, "student": student})
    assert status == 0
    tokens, student = read_record(folder)["stages"]
    (attempt,) = tokens["tries"]  # the two suffixes occur nowhere, so nothing is lost
    assert attempt["gate"]["per_measure"][1]["value"] == pytest.approx(1, abs=1e-5)
    # fidelity is still that to the first network's vectors, of its own tokens
    assert 0.3 < student["tries"][0]["gate"]["per_measure"][1]["value"] < 0.999
    assert (attempt["structure"]["tokens_before"], attempt["structure"]["tokens"]) == (27, 25)
    encoder = fulgurite.load(folder / "artifact")
    assert encoder.config.vocab_size == 25
    assert encoder.encode(["red cat"]).shape == (1, 32)


def test_a_language_model_with_fewer_tokens_is_judged_by_spans(
    trained_network: Path, small_text: Path, tmp_path: Path
) -> None:
    text = small_text.read_text()
    (tmp_path / "train.txt").write_text(text[: len(text) * 3 // 4])
    (tmp_path / "valid.txt").write_text(text[len(text) * 3 // 4 :])
    vocabulary = {
        "class_path": "callbacks.stages.VocabularyStage",
        "init_args": {"size": 280, "windows": 200},
    }
    content = {
        "model": {
            "class_path": "lightning_modules.LanguageModel",
            "init_args": {"source": str(trained_network), "measure_by": "spans", "last_word_questions": 20},
        },
        "data": {
            "class_path": "datamodules.TextDataModule",
            "init_args": {
                "train": str(tmp_path / "train.txt"),
                "validation": str(tmp_path / "valid.txt"),
                "window": 64,
                "cache_dir": str(tmp_path / "cache"),
            },
        },
        "cascade": {
            "stages": {"vocabulary": vocabulary, "bits": EIGHT_BITS},
            "gate": LENIENT,
            "limit_windows": 40,
            "threads": 1,
            "cache_dir": str(tmp_path / "cache"),
        },
        "trainer": {"accelerator": "cpu"},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    folder = tmp_path / "run"
    assert main(["compress", "--config", str(recipe), "--output_dir", str(folder)]) == 0
    record = read_record(folder)
    assert list(record["reference"]["scores"]) == ["bits_per_byte", "next_word", "last_word"]
    assert record["data"]["items"] == "spans"
    (attempt,) = record["stages"][0]["tries"]
    assert attempt["structure"]["tokens"] == 280
    network = fulgurite.load(folder / "artifact")
    assert network.config.vocab_size == network.get_input_embeddings().num_embeddings == 280
    # by windows of tokens the two could not be compared
    content["model"]["init_args"] = {"source": str(trained_network)}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["compress", "--config", str(recipe), "--output_dir", str(tmp_path / "windows")]) == 1
