"""The event log: whole lines, whatever happens to the process."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fulgurite.reporting import EventLog, read_events


def test_each_event_is_one_line_that_is_there_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run" / "events.jsonl")
    before = datetime.now(UTC)
    log.append("gate", stage="vptq2", retention=float("nan"), reason="line\nbreak – ü")
    lines = log.path.read_text(encoding="utf-8").splitlines()  # not closed, not flushed by hand
    assert len(lines) == 1
    event = json.loads(lines[0])
    # the time has whole milliseconds, so it may lie just before
    assert abs((datetime.fromisoformat(event.pop("time")) - before).total_seconds()) < 5
    assert event == {"event": "gate", "stage": "vptq2", "retention": None, "reason": "line\nbreak – ü"}
    log.close()


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for number in range(3):
        with EventLog(tmp_path / "events.jsonl") as log:
            log.append("start", number=number)
    assert [event["number"] for event in read_events(tmp_path)] == [0, 1, 2]


# cut in the middle of a key, of a number, and of the two bytes of "ü"
@pytest.mark.parametrize(
    "cut", [b'{"time": "x", "ev', b'{"time": "x", "event": "a", "n": 1', b'{"time": "\xc3']
)
def test_a_cut_last_line_is_left_out_and_a_resumed_run_goes_on_behind_the_whole_ones(
    tmp_path: Path, cut: bytes
) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("start")
    with path.open("ab") as file:
        file.write(cut)
    assert [event["event"] for event in read_events(path)] == ["start"]
    with EventLog(path) as log:
        log.append("resume")
    assert [event["event"] for event in read_events(path)] == ["start", "resume"]
    assert path.read_bytes().count(b"\n") == 2  # the cut line is gone


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": "2026-03-01", "event": "start"}')
    assert [event["event"] for event in read_events(path)] == ["start"]
    with EventLog(path) as log:
        log.append("resume")
    assert [event["event"] for event in read_events(path)] == ["start", "resume"]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"event": "no time"}'])
def test_a_broken_line_before_the_last_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    good = '{"time": "2026-03-01", "event": "start"}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(
        ValueError, match=r"events\.jsonl: line 2 must be a JSON object with time and event, got"
    ):
        read_events(path)


def test_no_file_yet_means_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


def test_fields_cannot_replace_the_time(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        with pytest.raises(ValueError, match="fields must not be called time or event, got time"):
            log.append("gate", time=3)
        with pytest.raises(TypeError, match="weights must have a JSON form, got set"):
            log.append("gate", weights={"a"})
    assert read_events(tmp_path) == []
