"""Runs side by side, and the hardware that one runs well on."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli.main import main
from fulgurite.reporting.compare import compare_runs, unique_names
from fulgurite.reporting.hardware import recommend_hardware
from fulgurite.reporting.record import write_record

Record = dict[str, Any]


def cost(**changed: Any) -> Record:
    values: Record = {
        "parameters": 6_000_000,
        "num_bytes": 1_200_000,
        "flops": 1.2e9,
        "latency_p50_ms": 12.5,
        "latency_p90_ms": 13.0,
        "latency_p99_ms": 15.0,
        "items_per_second": 80.0,
        "peak_memory_bytes": 60_000_000,
        "batch_size": 1,
        "threads": 2,
        "device": "cpu",
    }
    return values | changed


@pytest.fixture
def runs(record: Record, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and one that kept nothing."""
    measured = cost()
    record["efficiency"] = {
        "item": "input_ids [1, 257]",
        "reference": cost(latency_p50_ms=12.0),
        "artifact": measured,
        "hardware": recommend_hardware(measured),
    }
    other = copy.deepcopy(record) | {"success": False, "level": "reference", "artifact": None}
    del other["efficiency"]
    for stage in other["stages"]:
        stage |= {"accepted": False, "sha256": None, "path": None}
    for name, content in (("small", record), ("nothing", other)):
        write_record(tmp_path / name / "record.json", content)
    return tmp_path / "small", tmp_path / "nothing"


def test_each_run_is_a_column_with_its_own_numbers(
    runs: tuple[Path, Path], record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["small", "nothing"]
    rows = {line[:14].strip(): line[14:] for line in lines[1:]}
    result = next(stage for stage in record["stages"] if stage["name"] == record["level"])
    assert rows["result"].split() == [record["level"], "reference"]
    assert f"{result['ratio']:.1f}x" in rows["ratio"]
    assert "1.0x" in rows["ratio"]
    assert "12.5 ms" in rows["latency"]
    assert any(line.startswith("bits_per_byte") for line in lines)


def test_json_and_markdown_say_the_same(
    runs: tuple[Path, Path], record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--json", *map(str, runs)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["runs"]) == ["small", "nothing"]
    assert told["runs"]["small"]["level"] == record["level"]
    assert told["runs"]["nothing"]["num_bytes"] == record["reference"]["num_bytes"]
    assert told["runs"]["nothing"]["scores"]["bits_per_byte"]["retention"] == 1
    assert main(["compare", "--markdown", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | small | nothing |"
    assert lines[1] == "| --- | ---: | ---: |"


def test_what_cannot_be_compared_is_said(record: Record) -> None:
    other = copy.deepcopy(record)
    other["data"]["description"] = "other books"
    other["finished"] = None
    notes = compare_runs({"a": record, "b": other}).notes
    assert any("different data" in note and "scores are not comparable" in note for note in notes)
    assert "b has not ended" in notes
    assert compare_runs({"a": record, "b": copy.deepcopy(record)}).notes == ()
    worse = copy.deepcopy(record)
    for stage in worse["stages"]:
        for attempt in stage["tries"]:
            for measure in attempt["gate"]["per_measure"]:
                measure["reference"] += 0.5
    assert any("the references differ on" in note for note in compare_runs({"a": record, "b": worse}).notes)


def test_names_are_as_long_as_they_must_be() -> None:
    assert unique_names(["runs/a/", "runs/b", "old/a"]) == ["runs/a", "b", "old/a"]


def test_a_folder_without_a_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "none")]) == 1
    assert "none: no such record" in capsys.readouterr().err
    (tmp_path / "record.json").write_text("{}")
    assert main(["compare", str(tmp_path)]) == 1
    assert "must have the key" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected the records of runs to compare, found none"):
        compare_runs({})


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    for words in ("fulgurite compare runs/books6m", "--markdown", "--json", "a note then says"):
        assert words in shown


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        # 60 MB and 0.8 GB of PyTorch: in three quarters of 2 GB
        (cost(), "single-board computer with 2 GB"),
        (cost(peak_memory_bytes=1_000_000_000), "phone or single-board computer with 4 GB"),
        (cost(peak_memory_bytes=14_000_000_000), "workstation with 64 GB"),
        # over 100 ms: 14 GB fit three quarters of 24 GB
        (
            cost(peak_memory_bytes=14_000_000_000, latency_p50_ms=900.0),
            "workstation with 64 GB and an accelerator of 24 GB",
        ),
        (cost(peak_memory_bytes=10**12), "several servers"),
    ],
)
def test_hardware_follows_from_what_was_measured(measured: Record, expected: str) -> None:
    found = recommend_hardware(measured)
    assert found["class"] == expected
    assert found["memory_bytes"] == measured["peak_memory_bytes"] + 800_000_000
    assert "ms on cpu" in found["why"]
