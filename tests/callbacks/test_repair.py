"""Repair as a stage of a cascade: better scores in no more bytes, or no repair."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from callbacks.stages import RepairStage
from fulgurite.artifact.files import sha256_folder
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]

# 2 bits cost half of what the network knows: room for a repair
TWO_BITS: dict[str, Any] = {
    "codec": {
        "class_path": "UniformCodec",
        "init_args": {"bits": 2, "group_size": 48, "search": True},
    },
    "exclude": ["model.embed_tokens.weight"],
}
GATE = {"stage_retention": [0.05], "cumulative": 0.05, "floor": 0.01}


def repair(**settings: Any) -> dict[str, Any]:
    return {"class_path": "callbacks.stages.RepairStage", "init_args": settings}


def cascade(*stages: dict[str, Any]) -> dict[str, Any]:
    named = {f"stage{number}": deepcopy(stage) for number, stage in enumerate(stages)}
    return {"gate": GATE, "retries": 0, "stages": named}


def loss_of(stage: dict[str, Any]) -> float:
    measures = {measure["name"]: measure for measure in stage["tries"][-1]["gate"]["per_measure"]}
    return float(measures["bits_per_byte"]["value"])


def test_folding_lowers_the_loss_without_a_byte_and_side_information_is_charged(compress: Compress) -> None:
    status, folder = compress(cascade(TWO_BITS, repair(how="fold"), repair(how="side", rank=2)))
    assert status == 0
    coded, folded, beside = read_record(folder)["stages"]
    assert folded["accepted"]
    assert loss_of(folded) < loss_of(coded)
    assert folded["num_bytes"] <= coded["num_bytes"]
    assert beside["num_bytes"] > folded["num_bytes"]
    facts = folded["tries"][-1]["repair"]
    names = [entry["weight"] for entry in facts["weights"]]
    assert names[:3] == [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    assert len(names) == 14  # seven a layer; the table of tokens is in 16 bits
    assert facts["skipped"] == [
        {"weight": "model.embed_tokens.weight", "reason": "in 16 bits: there is nothing to repair"}
    ]
    for entry in facts["weights"]:
        assert entry["null_share"] == 1  # nothing was to be kept
        assert entry["error_after"] <= entry["error_before"]
        assert entry["importance"] == pytest.approx(entry["error_before"] - entry["error_possible"])


def test_a_share_of_the_energy_is_left_alone_and_told(compress: Compress) -> None:
    _, folder = compress(cascade(TWO_BITS, repair(how="fold", keep=0.9)))
    weights = read_record(folder)["stages"][1]["tries"][-1]["repair"]["weights"]
    # activations are correlated: few directions hold most of the energy
    assert all(0.5 < entry["null_share"] < 1 for entry in weights)


def test_a_crash_in_a_repair_loses_nothing(compress: Compress, monkeypatch: pytest.MonkeyPatch) -> None:
    from callbacks import repair_run

    both = cascade(TWO_BITS, repair(how="recode", metric="kl"))
    _, whole = compress(both, name="whole")
    done = [0]
    mend = repair_run._Repair._repair_group

    def crash(self: Any, *arguments: Any) -> None:
        mend(self, *arguments)
        done[0] += 1
        if done[0] == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(repair_run._Repair, "_repair_group", crash)
    assert compress(both, name="crashed")[0] == 1
    status, folder = compress(both, name="crashed")
    assert status == 0
    assert done[0] == 8  # four groups in each of two layers
    assert sha256_folder(folder / "artifact") == sha256_folder(whole / "artifact")
    coded, recoded = read_record(whole)["stages"]
    assert recoded["num_bytes"] <= coded["num_bytes"]
    assert any(entry["kept"] for entry in recoded["tries"][0]["repair"]["weights"])
    assert (
        read_record(folder)["stages"][1]["tries"][0]["repair"]
        == read_record(whole)["stages"][1]["tries"][0]["repair"]
    )


def test_with_nothing_accepted_before_there_is_nothing_to_repair(compress: Compress) -> None:
    _, folder = compress(cascade(repair(how="fold")))
    record = read_record(folder)
    assert record["level"] == "reference"
    assert record["notes"] == ["stage0: no stage before it was accepted, so there is nothing to repair"]


def test_too_few_calibration_rows_say_how_many_are_needed(
    compress: Compress, small_data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data.init_args.calibration_windows", "1"]  # 64 rows; the widest layer has 88 inputs
    status, _ = compress(cascade(TWO_BITS, repair(how="fold")), *arguments)
    assert status == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "expected at least 88 calibration rows for 88 inputs, found 64; give 2 times as many" in told
    assert "calibration_windows" in told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"how": "hope"}, "how must be one of fold, recode, side, got 'hope'"),
        ({"goal": "none"}, "goal must be reference or own, got 'none'"),
        ({"keep": 1.0}, r"keep must be in \[0, 1\), got 1.0"),
        ({"ridge": -0.1}, "ridge must not be negative, got -0.1"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"metric": "identity"}, "metric must be input or kl"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepairStage(**settings)
