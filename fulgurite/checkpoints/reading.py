"""The stages of a run, from its folder alone.

stages/<name>/try-<k>/{try.json, artifact/} -> StageCheckpoint
events.jsonl -> when it was judged;  artifact/ -> which of them is the result
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import file_sizes, sha256_folder
from fulgurite.artifact.manifest import read_manifest
from fulgurite.checkpoints.stage import StageCheckpoint
from fulgurite.reporting.events import read_events
from fulgurite.reporting.record import RECORD_NAME

_TRY = re.compile(r"try-([1-9]\d*)")


def read_checkpoints(run: Path | str, *, verify: bool = True) -> list[StageCheckpoint]:
    """Read what a run's folder holds of its stages, in the order of the recipe.

    A run that goes on or was cut off is read as well.

    Args:
        run: The run's folder.
        verify: Compare the checksums of every artefact; reads all of their bytes.

    Raises:
        ValueError: If it is no folder of a compression run.
    """
    run = Path(run)
    if not (run / "stages").is_dir():
        raise ValueError(
            f"{run}: expected the folder of a compress run, with stages/ in it; found {_found(run)}"
        )
    times = {
        (event.get("stage"), event.get("number")): str(event["time"])
        for event in read_events(run)
        if event["event"] == "try"
    }
    record = _record(run)
    result = sha256_folder(run / "artifact") if verify and (run / "artifact").is_dir() else None
    return [
        _read(folder, stage, number, times.get((stage, number)), record, verify=verify, result=result)
        for stage, number, folder in _tries(run, record)
    ]


def select_checkpoint(
    checkpoints: Sequence[StageCheckpoint], run: Path | str, stage: str, number: int | None = None
) -> StageCheckpoint:
    """The try that a stage's name means: the one asked for, else the accepted one, else the last that was judged.

    Raises:
        ValueError: If there is no such stage or try; names those that there are.
    """
    known = list(dict.fromkeys(checkpoint.stage for checkpoint in checkpoints))
    tries = [checkpoint for checkpoint in checkpoints if checkpoint.stage == stage]
    if not tries:
        near = difflib.get_close_matches(stage, known, n=2)
        hint = f"near: {', '.join(near)}" if near else f"known are {', '.join(known) or 'none'}"
        raise ValueError(f"{run}: no try of a stage {stage!r}; {hint}")
    if number is not None:
        numbers = [checkpoint.number for checkpoint in tries]
        if number not in numbers:
            raise ValueError(
                f"{run}: stage {stage} has no try {number}; it has {', '.join(map(str, numbers))}"
            )
        return tries[numbers.index(number)]
    for state in ("accepted", "rejected", "unfinished"):
        found = [checkpoint for checkpoint in tries if checkpoint.state == state]
        if found:
            return found[-1]
    raise AssertionError("a try has one of three states")


def _read(
    folder: Path,
    stage: str,
    number: int,
    when: str | None,
    record: Mapping[str, Any],
    *,
    verify: bool,
    result: str | None,
) -> StageCheckpoint:
    sizes = file_sizes(folder)
    stored = {name: size for name, size in sizes.items() if name.startswith("artifact/")}
    disk_bytes, artifact_bytes = sum(sizes.values()), sum(stored.values())
    outcome = _json(folder / "try.json")
    if not isinstance(outcome.get("gate"), dict):
        return StageCheckpoint(
            stage, number, folder, "unfinished", disk_bytes=disk_bytes, artifact_bytes=artifact_bytes
        )
    accepted = bool(outcome["gate"].get("accepted"))
    if when is None:  # its line in the history was lost: the file was written in the same second
        seconds = (folder / "try.json").stat().st_mtime
        when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    sha256, checksums = None, "not compared"
    is_result = not verify and _is_level(record, stage, number, accepted)
    if verify:
        sha256, checksums = _compare(folder / "artifact", _recorded(record, stage) if accepted else None)
        is_result = sha256 is not None and sha256 == result
    return StageCheckpoint(
        stage,
        number,
        folder,
        "accepted" if accepted else "rejected",
        outcome,
        when,
        disk_bytes,
        artifact_bytes,
        sha256=sha256,
        checksums=checksums,
        is_result=is_result,
    )


def _compare(artifact: Path, recorded: str | None) -> tuple[str | None, str]:
    """The checksum of an artefact, and whether it is what its manifest and the record say."""
    if not artifact.is_dir():
        return None, "missing"
    found = sha256_folder(artifact)
    try:
        read_manifest(artifact).verify()
    except (ArtifactError, OSError) as error:
        return found, str(error)
    if recorded is not None and found != recorded:
        return found, f"{artifact}: the record expects sha256 {recorded[:12]}, found {found[:12]}"
    return found, "good"


def _tries(run: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, int, Path]]:
    present = {path.name: path for path in sorted((run / "stages").iterdir()) if path.is_dir()}
    ordered = [stage["name"] for stage in record.get("stages", []) if stage["name"] in present]
    for stage in dict.fromkeys([*ordered, *present]):
        numbers = {
            int(match[1]): path for path in present[stage].iterdir() if (match := _TRY.fullmatch(path.name))
        }
        for number in sorted(numbers):
            yield stage, number, numbers[number]


def _is_level(record: Mapping[str, Any], stage: str, number: int, accepted: bool) -> bool:
    restored = record.get("restored")
    if restored is not None:
        return (stage, number) == (restored.get("stage"), restored.get("number"))
    return accepted and record.get("level") == stage


def _recorded(record: Mapping[str, Any], stage: str) -> str | None:
    found = [entry.get("sha256") for entry in record.get("stages", []) if entry["name"] == stage]
    return found[0] if found else None


def _record(run: Path) -> Mapping[str, Any]:
    """The record as far as it can be read: where it was cut, the folders speak for themselves."""
    record = _json(run / RECORD_NAME)
    stages = record.get("stages")
    whole = isinstance(stages, list) and all(isinstance(stage, dict) and "name" in stage for stage in stages)
    return record if whole else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _found(run: Path) -> str:
    if not run.exists():
        return "no such folder"
    if not run.is_dir():
        return "a file"
    return ", ".join(sorted(path.name for path in run.iterdir())[:5]) or "an empty folder"
