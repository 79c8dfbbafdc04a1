"""Whole searches over a small real network: killed and gone on with, pruned, shared by two commands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.cli.main import main
from fulgurite.reporting.events import read_events
from fulgurite.reporting.record import read_record
from fulgurite.search.settings import Objective, read_search
from fulgurite.search.study import Study

BITS = "cascade.stages.uniform.codec.bits"
STEPS = "cascade.stages.uniform.refine.steps"
Write = Callable[..., Path]


@pytest.fixture
def search(trained_network: Path, small_data: dict[str, Any], tmp_path: Path) -> Write:
    """Write a search over the small network; with a grid, so that it is known what is drawn."""

    def write(**changes: Any) -> Path:
        codec = {"class_path": "UniformCodec", "init_args": {"bits": 8, "group_size": 32}}
        cascade = {
            "threads": 1,
            "limit_windows": 60,
            "retries": 0,
            "gate": {"stage_retention": [0.2], "cumulative": 0.2, "floor": 0.01},
            "stages": {"uniform": {"codec": codec, "refine": {"checkpoint_every": 4, "batch_size": 4}}},
        }
        model = {
            "class_path": "lightning_modules.LanguageModel",
            "init_args": {"source": str(trained_network)},
        }
        recipe = {"model": model, "data": small_data, "cascade": cascade, "trainer": {"accelerator": "cpu"}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        content = {
            "recipe": str(tmp_path / "recipe.yaml"),
            "space": {BITS: {"choices": [8, 4]}},
            "objectives": ["bytes", "retention"],
            "sampler": "grid",
            "trials": 2,
            **changes,
        }
        (tmp_path / "search.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / "search.yaml"

    return write


def start(search: Path, study: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "FULGURITE_OUTPUT_DIR"}
    command = [sys.executable, "-m", "fulgurite.cli.main", "search", "--config", str(search)]
    return subprocess.Popen(
        [*command, "--output_dir", str(study), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > end:
            process.kill()  # a search goes on by itself
            raise AssertionError("it did not come to that")
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_search_goes_on_with_all_its_trials(search: Write, tmp_path: Path) -> None:
    study = tmp_path / "study"
    path = search(overrides={STEPS: 12})
    process = start(path, study, "--no-check")
    second = study / "trials" / "001" / "run"
    wait_for(lambda: any(event["event"] == "stage" for event in read_events(second)), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = (study / "trials" / "000" / "run" / "record.json").read_bytes()
    assert [trial.state for trial in Study(read_search(path), study).trials()] == ["done", "running"]

    assert main(["search", "--config", str(path), "--output_dir", str(study), "--no-check"]) == 0
    trials = Study(read_search(path), study).trials()
    assert [(trial.number, trial.state) for trial in trials] == [(0, "done"), (1, "done")]
    assert (study / "trials" / "000" / "run" / "record.json").read_bytes() == first
    events = [event["event"] for event in read_events(second)]
    assert events.count("start") == 1  # it was gone on with, not begun anew
    assert events.count("try") == 1
    for trial in trials:
        record = read_record(study / "trials" / f"{trial.number:03d}" / "run")
        assert trial.values == (record["stages"][0]["num_bytes"], record["stages"][0]["retention"])
    sizes = {trial.params[BITS]: trial.values[0] for trial in trials}
    assert sizes[4] < sizes[8]
    # fewer bits may by chance keep more of so small a network: then they are the front alone
    one, other = trials
    better = [one] if one.values[1] >= other.values[1] and one.values[0] < other.values[0] else trials
    better = [other] if other.values[1] >= one.values[1] and other.values[0] < one.values[0] else better
    assert sorted(path.stem for path in (study / "pareto").iterdir()) == [
        f"trial-{trial.number:03d}" for trial in better
    ]
    assert len((study / "study.md").read_text().split("## All trials")[1].strip().splitlines()) == 4


@pytest.mark.slow
def test_a_recipe_of_the_front_is_what_the_command_takes(search: Write, tmp_path: Path) -> None:
    study = tmp_path / "study"
    assert main(["search", "--config", str(search(trials=1)), "--output_dir", str(study)]) == 0
    (recipe,) = (study / "pareto").iterdir()
    assert main(["compress", "--config", str(recipe), "--output_dir", str(tmp_path / "run")]) == 0
    trial = read_record(study / "trials" / "000" / "run")
    assert read_record(tmp_path / "run")["artifact"]["num_bytes"] == trial["artifact"]["num_bytes"]


@pytest.mark.slow
def test_two_commands_share_a_study(search: Write, tmp_path: Path) -> None:
    study, path = tmp_path / "study", search(space={BITS: {"choices": [8, 7, 6, 5, 4]}}, trials=5)
    both = [start(path, study) for _ in range(2)]
    outputs = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    trials = Study(read_search(path), study).trials()
    assert [(trial.number, trial.state) for trial in trials] == [(number, "done") for number in range(5)]
    assert sorted(trial.params[BITS] for trial in trials) == [4, 5, 6, 7, 8]
    # each line of a trial was printed by the command that ran it
    assert sorted(sum(line.startswith("trial") for line in output.splitlines()) for output in outputs)[0] >= 1


@pytest.mark.slow
def test_an_early_run_keeps_a_poor_trial_from_the_whole_one(search: Write, tmp_path: Path) -> None:
    study = tmp_path / "study"
    early = {"limit_windows": 20, "min_retention": 0.7}
    # 8 bits keep nearly all, 1 bit keeps nearly nothing
    path = search(space={BITS: {"choices": [8, 1]}}, early=early)
    assert main(["search", "--config", str(path), "--output_dir", str(study)]) == 0
    states = {trial.params[BITS]: trial for trial in Study(read_search(path), study).trials()}
    assert (states[8].state, states[1].state) == ("done", "pruned")
    assert "early" in states[1].reason
    assert not (study / "trials" / f"{states[1].number:03d}" / "run").exists()


@pytest.mark.slow
def test_a_trial_is_given_up_after_a_stage_that_keeps_too_little(search: Write, tmp_path: Path) -> None:
    path = search(early={"min_retention": 0.9}, space={BITS: {"choices": [1]}}, trials=1)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    stage = recipe["cascade"]["stages"]["uniform"]
    slow = {**stage, "refine": {"steps": 100_000, "batch_size": 4}}  # would take an hour
    recipe["cascade"]["stages"] = {"uniform": stage, "slow": slow}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    study = tmp_path / "study"
    assert main(["search", "--config", str(path), "--output_dir", str(study)]) == 3
    (trial,) = Study(read_search(path), study).trials()
    assert trial.state == "pruned"
    assert trial.reason.startswith("uniform keeps")


@pytest.mark.slow
def test_latency_and_a_score_are_objectives(search: Write, tmp_path: Path) -> None:
    objectives = ["latency_ms", {"metric": "score/bits_per_byte", "direction": "minimize"}]
    path, study = search(objectives=objectives, trials=1), tmp_path / "study"
    assert main(["search", "--config", str(path), "--output_dir", str(study)]) == 0
    (trial,) = Study(read_search(path), study).trials()
    assert read_search(path).objectives[0] == Objective("latency_ms", "minimize")
    facts = json.loads((study / "trials" / "000" / "latency.json").read_text())
    assert trial.values[0] == facts["latency_p50_ms"] > 0


@pytest.mark.slow
def test_a_metric_that_is_not_measured_ends_the_search(
    search: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = search(objectives=[{"metric": "score/acc1", "direction": "maximize"}])
    assert main(["search", "--config", str(path), "--output_dir", str(tmp_path / "study")]) == 1
    assert "objective score/acc1 was not measured; there are" in capsys.readouterr().err


@pytest.mark.slow
def test_trials_that_cannot_work_are_named_and_end_the_search(
    search: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = search(space={BITS: {"choices": [8, 7, 6, 5]}}, trials=4)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["model"]["init_args"]["source"] = str(tmp_path / "missing")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    study = tmp_path / "study"
    assert main(["search", "--config", str(path), "--output_dir", str(study)]) == 1
    shown = capsys.readouterr()
    assert "the first 3 trials failed alike: exit status" in shown.err
    assert "3 failed" in shown.out
    assert "missing" in (study / "study.md").read_text()
