"""Whole runs with an allocation: limits met on disk, recorded, the same after a kill and on two ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rank_processes import run_command

from fulgurite.artifact.files import sha256_folder
from fulgurite.artifact.manifest import read_manifest
from fulgurite.reporting.events import read_events
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]

ECQ = {"class_path": "EcqCodec", "init_args": {"rate": 2.0, "states": 1}}  # scalar: the quickest to encode
UNIFORM = {"class_path": "UniformCodec", "init_args": {"group_size": 32, "entropy": True}}


def allocated(codec: dict[str, Any], retries: int = 0, **allocate: Any) -> dict[str, Any]:
    """A cascade of one stage that any gate lets pass."""
    allocate = {"probe_windows": 4, **allocate}
    stage = {"codec": codec, "allocate": allocate, "min_retention": 0.01}
    return {"retries": retries, "gate": {"cumulative": 0.01, "floor": 0.01}, "stages": {"mixed": stage}}


def test_a_budget_is_met_within_a_percent_from_below(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    status, folder = compress(allocated(ECQ, budget="20kB"))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert 0.99 * 20_000 <= read_manifest(folder / "artifact").num_bytes <= 20_000
    assert "bits per weight by slope" in printed.out
    attempt = read_record(folder)["stages"][0]["tries"][0]
    told = attempt["allocation"]
    assert (told["strategy"], told["budget"], told["slopes_measured"]) == ("slope", 20_000, True)
    assert told["predicted_loss"] > 0
    bits = [layer["bits_allocated"] for layer in attempt["layers"]]
    assert max(bits) > min(bits) + 0.5, "weights that matter more have more"
    assert all(layer["slope"] > 0 for layer in attempt["layers"])
    (event,) = [event for event in read_events(folder) if event["event"] == "allocation"]
    assert list(event["bits"].values()) == bits


def test_rates_in_steps_are_never_over(compress: Compress) -> None:
    for strategy in ("slope", "variance"):
        _, folder = compress(allocated(UNIFORM, budget=40_000, strategy=strategy), name=strategy)
        found = read_manifest(folder / "artifact").num_bytes
        # the smallest step is a bit of a weight of 48 x 24: 144 bytes; it ends at the first that does not fit
        assert 0.97 * 40_000 <= found <= 40_000, strategy


def test_bits_per_weight_count_what_the_stage_codes(compress: Compress) -> None:
    _, folder = compress(allocated(ECQ, bits_per_weight=3.0))
    layers = read_record(folder)["stages"][0]["tries"][0]["layers"]
    manifest = read_manifest(folder / "artifact")
    numel = sum(8 * layer["num_bytes"] / layer["bits_per_weight"] for layer in layers)
    assert 0.99 * 3.0 <= 8 * sum(layer["num_bytes"] for layer in layers) / numel <= 3.0
    assert manifest.bits_per_weight > 3.0, "norms and the manifest come on top"


def test_a_loss_is_kept_about_as_foreseen(compress: Compress) -> None:
    _, folder = compress(allocated(UNIFORM, max_loss=0.05))
    attempt = read_record(folder)["stages"][0]["tries"][0]
    assert (
        0.03 <= attempt["allocation"]["predicted_loss"] <= 0.05
    )  # the embedding's next step is a fifth of it
    bits = [layer["bits_allocated"] for layer in attempt["layers"]]
    assert 1 < min(bits) < max(bits) < 9  # 8 bits are 9 with a step and a zero for 32 weights


def test_an_unreachable_budget_says_what_holds_the_bytes(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    status, folder = compress(allocated(UNIFORM, budget="8kB", strategy="uniform"))
    assert status == 1
    message = capsys.readouterr().err
    assert "a budget of 8,000 bytes cannot be met: the least possible is" in message
    assert "of which model.embed_tokens.weight" in message
    assert not (folder / "artifact").exists()


def test_an_override_is_not_up_for_allocation(compress: Compress) -> None:
    cascade = allocated(ECQ, budget="48kB", strategy="uniform")
    cascade["stages"]["mixed"]["overrides"] = {"model.embed_tokens.weight": {"class_path": "Float16Codec"}}
    _, folder = compress(cascade)
    layers = {layer["weight"]: layer for layer in read_record(folder)["stages"][0]["tries"][0]["layers"]}
    assert layers["model.embed_tokens.weight"]["codec"] == "fp16"
    assert {layer["codec"] for name, layer in layers.items() if "embed" not in name} == {"ecq"}
    assert 0.99 * 48_000 <= read_manifest(folder / "artifact").num_bytes <= 48_000


def test_a_retry_takes_a_larger_budget_and_keeps_the_curves(compress: Compress) -> None:
    cascade = allocated(UNIFORM, retries=1, budget="30kB")
    cascade["stages"]["mixed"]["min_retention"] = 0.999
    _, folder = compress(cascade)
    first, second = read_record(folder)["stages"][0]["tries"]
    assert first["gate"]["severity"] in ("mild", "severe")
    more = {"mild": 33_000, "severe": 37_500}[first["gate"]["severity"]]
    assert second["changes"] == [f"allocate.budget 30,000 -> {more:,} bytes"]
    assert first["num_bytes"] < second["num_bytes"] <= more
    curves = [path.stat().st_mtime for path in (folder / "stages/mixed/curves").iterdir()]
    assert max(curves) < (folder / "stages/mixed/try-1/try.json").stat().st_mtime


def test_refinement_stays_within_the_budget(compress: Compress) -> None:
    cascade = allocated(ECQ, budget="20kB")
    cascade["stages"]["mixed"]["refine"] = {"steps": 20, "learning_rate": 0.01}
    _, folder = compress(cascade)
    attempt = read_record(folder)["stages"][0]["tries"][0]
    assert attempt["refine"]["kept"]
    assert attempt["num_bytes"] <= 20_000


STEPS = allocated(UNIFORM, budget="34kB")


@pytest.fixture
def whole(compress: Compress) -> str:
    status, folder = compress(STEPS, name="whole")
    assert status == 0
    return sha256_folder(folder / "artifact")


class Crash(Exception):
    """Stands for whatever may happen to a process."""


@pytest.mark.parametrize("moment", ["curve", "decision", "layer"])
def test_a_crash_changes_no_byte(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, whole: str, moment: str
) -> None:
    from callbacks.stages import allocating, curves, encoding

    module, name = {
        "curve": (curves, "write_file"),
        "decision": (allocating, "write_file"),
        "layer": (encoding, "save_encoded"),
    }[moment]
    saved, count = getattr(module, name), [0]

    def crash(*arguments: Any) -> None:
        count[0] += 1
        if moment == "decision":
            raise Crash  # before it is written
        saved(*arguments)
        if count[0] == 5:
            raise Crash

    monkeypatch.setattr(module, name, crash)
    assert compress(STEPS, name="crashed")[0] == 1
    assert count[0] == (1 if moment == "decision" else 5)
    monkeypatch.setattr(module, name, saved)
    status, folder = compress(STEPS, name="crashed")
    assert status == 0
    assert sha256_folder(folder / "artifact") == whole


def test_a_second_start_reads_what_was_decided(compress: Compress, whole: str) -> None:
    _, folder = compress(STEPS, name="whole")
    assert sha256_folder(folder / "artifact") == whole
    events = [event["event"] for event in read_events(folder)]
    assert events.count("allocation") == 1


def test_two_ranks_decide_as_one(compress: Compress, whole: str, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    command = ["compress", "--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(folder)]
    run_command(2, command, tmp_path)
    assert sha256_folder(folder / "artifact") == whole


def test_settings_of_an_allocation_are_flags_too(compress: Compress) -> None:
    _, folder = compress(
        allocated(UNIFORM, budget="1MB", strategy="uniform"), "--cascade.stages.mixed.allocate.budget=40kB"
    )
    settings = read_record(folder)["stages"][0]["tries"][0]["settings"]["allocate"]
    assert (settings["budget"], settings["strategy"]) == ("40kB", "uniform")
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["cascade"]["stages"]["mixed"]["init_args"]["allocate"]["budget"] == "40kB"
    assert json.loads((folder / "stages/mixed/try-1/allocation.json").read_text())["final"] is True


def test_wrong_settings_are_told_in_a_line(compress: Compress, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = compress(allocated(UNIFORM, budget="forty"))
    assert status != 0
    assert "allocate.budget must be bytes" in capsys.readouterr().err
