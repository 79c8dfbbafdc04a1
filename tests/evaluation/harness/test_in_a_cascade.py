"""A gate that judges by benchmarks beside the held-out text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.alignment import RULES
from fulgurite.evaluation.harness import BenchmarkSettings

Compress = Callable[..., tuple[int, Path]]


def eight_bits() -> dict[str, Any]:
    codec = {"class_path": "UniformCodec", "init_args": {"bits": 8, "group_size": 16}}
    return {"codec": codec, "select": "model.layers.*.mlp.*"}


def test_benchmarks_are_measures_of_the_gate(compress: Compress, small_text: Path, bench_data: Path) -> None:
    status, folder = compress(
        {"stages": {"eight": eight_bits()}},
        "--model.benchmarks.names=[text, arc_easy]",
        f"--model.benchmarks.text=[{small_text}]",
        f"--model.benchmarks.data_dir={bench_data}",
        "--model.benchmarks.limit=8",
    )
    record = json.loads((folder / "record.json").read_text())
    assert status == 0
    assert {"bits_per_byte", "next_token", "text", "arc_easy"} == set(record["reference"]["scores"])
    (stage,) = record["stages"]
    judged = {each["name"]: each for each in stage["tries"][-1]["gate"]["per_measure"]}
    assert judged["text"]["informative"]
    assert judged["text"]["retention"] == pytest.approx(1, abs=0.02)  # eight bits cost little
    assert not judged["arc_easy"]["informative"]  # eight questions that it knows nothing of
    # 100 windows at most, eight items of each benchmark
    counts = {name: score["items"] for name, score in record["reference"]["scores"].items()}
    assert counts == {"bits_per_byte": 100, "next_token": 100, **record["data"]["benchmarks"]}
    assert counts["arc_easy"] == judged["arc_easy"]["items"] == 8


def test_alignment_is_checked_after_each_stage(compress: Compress) -> None:
    status, folder = compress(
        {"stages": {"eight": eight_bits()}, "checks": {"alignment": True}},
        "--model.benchmarks.names=[alignment]",
        "--model.benchmarks.limit=8",
        "--cascade.checks.alignment_least_last=1.0",  # as the key of a recipe; no network has all of them
    )
    record = json.loads((folder / "record.json").read_text())
    assert status == 0, "the reference fails as well"
    (stage,) = record["stages"]
    checks = stage["tries"][0]["checks"]
    assert [check["name"] for check in checks] == [f"alignment_{rule}" for rule in RULES]
    scores = record["reference"]["scores"]
    for check in checks:
        assert (check["least"], check["state"], check["rejects"]) == (1.0, "below", False)
        assert check["reference"] == scores[check["name"]]["value"]
    assert len([note for note in record["notes"] if "turns down no stage" in note]) == len(RULES)


def test_a_benchmark_without_data_stops_a_run_before_it_starts(
    compress: Compress, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, folder = compress(
        {"stages": {"eight": eight_bits()}},
        "--model.benchmarks.names=[hellaswag]",
        f"--model.benchmarks.data_dir={tmp_path}",
    )
    assert status == 1
    assert "benchmark hellaswag: " in capsys.readouterr().err
    assert not (folder / "record.json").exists()


def test_a_run_does_not_go_on_with_other_items(
    compress: Compress,
    lines: Callable[[Path, Any], Path],
    item: Callable[[int], dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "bench" / "arc_easy" / "test.jsonl"
    arguments = ["--model.benchmarks.names=[arc_easy]", f"--model.benchmarks.data_dir={tmp_path / 'bench'}"]
    lines(file, [item(index) for index in range(8)])
    assert compress({"stages": {"eight": eight_bits()}}, *arguments)[0] == 0
    lines(file, [item(index) for index in range(1, 9)])  # as many, so that nothing else tells
    capsys.readouterr()
    assert compress({"stages": {"eight": eight_bits()}}, *arguments)[0] == 1
    said = capsys.readouterr().err
    assert "was made by another recipe (the held-out data, or a benchmark's items)" in said
    assert "--restart" in said
    assert compress({"stages": {"eight": eight_bits()}}, *arguments, "--restart")[0] == 0


def test_whoever_stops_a_run_need_not_wait_for_all_benchmarks(
    bench_data: Path, small_llama: Path, small_data: dict[str, Any]
) -> None:
    from datamodules import TextDataModule
    from lightning_modules import LanguageModel

    settings = BenchmarkSettings(names=["arc_easy"], data_dir=str(bench_data), limit=8, batch_size=1)
    module = LanguageModel(source=str(small_llama), benchmarks=settings)
    module.configure_model()
    texts = TextDataModule(**small_data["init_args"] | {"window": 32})
    texts.use_tokenizer(module.tokenizer)
    seen: list[int] = []

    def stop_among_the_questions(done: int) -> None:
        seen.append(done)
        if seen.count(4) > 2:  # all windows were done, and two batches of questions
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.evaluate_network(module.network, texts, limit=4, progress=stop_among_the_questions)
    assert max(seen) == 4


def test_the_suite_is_read_once_and_handed_on(bench_data: Path, small_llama: Path) -> None:
    from lightning_modules import LanguageModel

    settings = BenchmarkSettings(names=["arc_easy"], data_dir=str(bench_data), limit=3)
    module = LanguageModel(source=str(small_llama), benchmarks=settings)
    assert module.benchmark_suite() is module.benchmark_suite()
    assert "benchmarks" not in module.hparams
    assert LanguageModel(source=str(small_llama)).benchmarks is None  # none by default
