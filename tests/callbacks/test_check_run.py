"""Checks of behaviour in a run: a stage whose scores pass is turned down for what it has lost, and mended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]

LENIENT = {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01}
"""A gate that lets every network pass that is better than chance."""


def uniform(bits: int, **settings: Any) -> dict[str, Any]:
    arguments = {"bits": bits, "group_size": 32}
    return {"codec": {"class_path": "UniformCodec", "init_args": arguments}, **settings}


def share(record: dict[str, Any]) -> float:
    return float(record["reference"]["scores"]["next_token"]["value"])


@pytest.fixture
def reference_share(compress: Compress) -> float:
    """Next tokens that the reference predicts."""
    _, folder = compress({"gate": LENIENT, "stages": {"eight": uniform(8)}}, name="plain")
    record = read_record(folder)
    assert record["stages"][0]["tries"][0]["checks"] is None
    return share(record)


def test_a_stage_that_passes_its_gate_and_fails_a_check_is_retried(
    compress: Compress, reference_share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    # two bits lose more than a hundredth of the tokens, three and four less and less
    checks = {"edge_of_chaos": "next_token", "edge_of_chaos_within": [reference_share - 0.01, 1.0]}
    cascade = {"gate": LENIENT, "checks": checks, "retries": 3, "stages": {"two": uniform(2)}}
    status, folder = compress(cascade)
    shown = capsys.readouterr().out
    (stage,) = read_record(folder)["stages"]
    first, last = stage["tries"][0], stage["tries"][-1]
    assert status == 0
    assert (first["gate"]["accepted"], first["gate"]["severity"]) == (False, "mild")
    assert first["gate"]["retention_low"] > 0.01, "the scores hold"
    assert first["gate"]["failed_checks"] == ["edge_of_chaos"]
    (check,) = first["checks"]
    assert (check["state"], check["rejects"], check["reference_state"]) == ("below", True, "within")
    assert check["sentence"] in shown
    assert "scores hold, but not the checks: edge_of_chaos (mild)" in shown
    assert stage["tries"][1]["changes"] == ["bits 2 -> 3"]
    assert last["checks"][0]["passed"]
    assert stage["accepted"]


def test_what_the_reference_fails_is_said_first_and_turns_nothing_down(
    compress: Compress, reference_share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    checks: dict[str, Any] = {"edge_of_chaos": "next_token"}
    checks["edge_of_chaos_within"] = [reference_share + 0.05, 1.0]
    cascade = {"gate": LENIENT, "checks": checks, "retries": 0, "stages": {"eight": uniform(8)}}
    status, folder = compress(cascade, name="lenient")
    shown = capsys.readouterr().out
    assert status == 0
    assert shown.index("the reference itself fails edge_of_chaos") < shown.index("1/1 eight")
    assert "a remark" in shown
    record = read_record(folder)
    assert any("turns down no stage" in note for note in record["notes"])
    status, folder = compress({**cascade, "checks": checks | {"strict": True}}, name="strict")
    assert status == 3
    assert read_record(folder)["stages"][0]["tries"][0]["gate"]["failed_checks"] == ["edge_of_chaos"]


def test_an_accuracy_above_is_turned_down_by_strict_checks_alone_and_not_retried(
    compress: Compress, reference_share: float
) -> None:
    checks = {"edge_of_chaos": "next_token", "edge_of_chaos_within": [0.0, reference_share / 2]}
    cascade = {"gate": LENIENT, "checks": checks, "stages": {"six": uniform(6)}}
    status, folder = compress(cascade, name="lenient")
    assert status == 0
    assert read_record(folder)["stages"][0]["tries"][0]["checks"][0]["state"] == "above"
    status, folder = compress({**cascade, "checks": {**checks, "strict": True}}, name="strict")
    (stage,) = read_record(folder)["stages"]
    assert (status, len(stage["tries"])) == (3, 1), "more bits mend nothing"
    assert stage["tries"][0]["gate"]["severity"] == "none"


def test_a_check_of_what_is_not_measured_stops_a_run_before_its_first_stage(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    status, folder = compress({"checks": {"alignment": True}, "stages": {"eight": uniform(8)}})
    assert status == 1
    assert "expected alignment among model.benchmarks.names" in capsys.readouterr().err
    assert not list(folder.glob("stages/*"))


def test_checks_take_all_items(compress: Compress) -> None:
    checks = {"edge_of_chaos": "next_token", "edge_of_chaos_within": [0.0, 1.0]}
    _, folder = compress({"gate": {"looks": 4}, "checks": checks, "stages": {"eight": uniform(8)}})
    record = read_record(folder)
    assert record["stages"][0]["tries"][0]["looks"] is None
    assert any("a check is of all items" in note for note in record["notes"])
