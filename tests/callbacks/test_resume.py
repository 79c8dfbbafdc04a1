"""A run that is cut off goes on, and ends with the bytes of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.artifact.files import sha256_folder
from fulgurite.reporting.events import read_events
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]

CASCADE: dict[str, Any] = {
    "threads": 1,
    "limit_windows": 60,
    "report": False,
    "stages": {
        "six": {
            "codec": {"class_path": "UniformCodec", "init_args": {"bits": 6, "group_size": 32}},
            "min_retention": 0.5,
        },
        "vectors": {
            "codec": {"class_path": "VptqCodec", "init_args": {"vector_length": 2, "codebook_size": 64}},
            "min_retention": 0.1,
            "refine": {"steps": 12, "checkpoint_every": 4, "batch_size": 4},
        },
    },
}


@pytest.fixture(scope="module")
def recipe(
    trained_network: Path, small_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    model = {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(trained_network)}}
    content = {"model": model, "data": small_data, "cascade": CASCADE, "trainer": {"accelerator": "cpu"}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def start(recipe: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fulgurite.cli.main", "compress", "--config", str(recipe)]
    environment = {key: value for key, value in os.environ.items() if key != "FULGURITE_OUTPUT_DIR"}
    return subprocess.Popen(
        [*command, "--output_dir", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(recipe, folder)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert read_record(folder)["level"] == "vectors"
    return sha256_folder(folder / "artifact")


class Crash(Exception):
    """Stands for whatever may happen to a process."""


@pytest.mark.parametrize("stage", ["six", "vectors"])
@pytest.mark.parametrize("weight", [1, 9])
def test_a_crash_between_weights_loses_none_of_them(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, stage: str, weight: int
) -> None:
    from callbacks.stages import encoding

    _, whole = compress(CASCADE, name="whole")
    written = [0]
    save = encoding.save_encoded

    def crash(path: Path, encoded: Any) -> None:
        save(path, encoded)
        if f"/{stage}/" in str(path):
            written[0] += 1
            if written[0] == weight:
                raise Crash

    monkeypatch.setattr(encoding, "save_encoded", crash)
    status, folder = compress(CASCADE, name="crashed")
    assert status == 1
    assert len(list((folder / f"stages/{stage}/try-1/layers").glob("*.safetensors"))) == weight
    counted = [0]

    def count(path: Path, encoded: Any) -> None:
        counted[0] += 1
        save(path, encoded)

    monkeypatch.setattr(encoding, "save_encoded", count)
    status, folder = compress(CASCADE, name="crashed")
    assert status == 0
    later = (
        15 if stage == "six" else 0
    )  # the network has 15 matrices; a crash in "six" leaves all of "vectors"
    assert counted[0] == 15 - weight + later, "only what was missing is encoded"
    assert sha256_folder(folder / "artifact") == sha256_folder(whole / "artifact")


@pytest.mark.parametrize("step", [2, 7])
def test_a_crash_in_refinement_goes_on_from_the_last_checkpoint(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from lightning_modules.refinement import Refinement

    _, whole = compress(CASCADE, name="whole")
    steps = [0]
    train = Refinement.training_step

    def crash(self: Refinement, batch: Any, batch_idx: int) -> Any:
        steps[0] += 1
        if steps[0] == step:
            raise Crash
        return train(self, batch, batch_idx)

    monkeypatch.setattr(Refinement, "training_step", crash)
    assert compress(CASCADE, name="crashed")[0] == 1
    steps[0] = 100
    status, folder = compress(CASCADE, name="crashed")
    assert status == 0
    begun = 4 * ((step - 1) // 4)  # a checkpoint every 4 steps
    assert steps[0] - 100 == 12 - begun
    assert sha256_folder(folder / "artifact") == sha256_folder(whole / "artifact")


def test_ctrl_c_saves_and_says_how_to_go_on(recipe: Path, uninterrupted: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(recipe, folder)
    _wait_for(folder / "stages", process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert f"To go on: fulgurite compress --config {recipe} --output_dir {folder}" in output
    process = start(recipe, folder)
    assert process.wait(timeout=300) == 0
    assert sha256_folder(folder / "artifact") == uninterrupted


@pytest.mark.slow
def test_five_kills_at_random_moments_change_no_byte(
    recipe: Path, uninterrupted: str, tmp_path: Path
) -> None:
    folder, moments = tmp_path / "run", random.Random(0)
    for _ in range(5):
        process = start(recipe, folder)
        known = len(read_events(folder))
        while len(read_events(folder)) == known and process.poll() is None:
            time.sleep(0.02)  # importing is no moment worth a kill
        time.sleep(moments.uniform(0, 4))
        process.kill()
        process.wait()
    process = start(recipe, folder)
    assert process.wait(timeout=300) == 0
    assert sha256_folder(folder / "artifact") == uninterrupted


def test_two_processes_make_the_bytes_of_one(recipe: Path, uninterrupted: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(recipe, folder, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert read_record(folder)["environment"]["world_size"] == 2
    assert sha256_folder(folder / "artifact") == uninterrupted


def _wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
