"""An earlier stage's artefact becomes the run's result again.

verify the try -> keep what no stage has -> copy beside -> compare -> exchange in one step -> compare
              -> events.jsonl, record.json
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fulgurite.artifact.files import clean_leftovers, sha256_folder, write_folder
from fulgurite.artifact.lock import FolderLock
from fulgurite.artifact.manifest import read_manifest
from fulgurite.checkpoints.reading import read_checkpoints, select_checkpoint
from fulgurite.checkpoints.stage import StageCheckpoint
from fulgurite.reporting.events import EVENTS_NAME, EventLog
from fulgurite.reporting.record import RECORD_NAME, read_record, write_record


@dataclass(frozen=True)
class Restored:
    """What a restoration has done.

    Args:
        checkpoint: The try that is the result now.
        before: The level before.
        kept: Where the earlier result lies now, if no stage of the run has it.
        changed: Whether the result is another than before.
    """

    checkpoint: StageCheckpoint
    before: str
    kept: Path | None
    changed: bool


def restore_checkpoint(
    run: Path | str, stage: str, number: int | None = None, *, rejected: bool = False
) -> Restored:
    """Make the artefact of a stage the run's result.

    The stages stay as they are, so that any other can be restored after it.

    Args:
        run: The folder of a compress run.
        stage: Name of the stage.
        number: The try; by default the accepted one, else the last that was judged.
        rejected: Take a try that its gate has rejected, too.

    Raises:
        ValueError: If there is no such try, its artefact is damaged, its gate rejected it, or another process
            works in the folder. The result is then as it was.
    """
    run = Path(run)
    checkpoints = read_checkpoints(run)
    with FolderLock(run) as lock:
        if not lock.held:
            raise ValueError(f"{run}: another process is working there; wait until it is done")
        checkpoint = _usable(select_checkpoint(checkpoints, run, stage, number), rejected=rejected)
        record = read_record(run)
        clean_leftovers(run)
        before, kept = str(record["level"]), None
        if not checkpoint.is_result:
            kept = _keep(run, checkpoints)
            _copy(checkpoint, run / "artifact")
        _remember(run, record, checkpoint)
    return Restored(checkpoint, before, kept, changed=not checkpoint.is_result)


def copy_checkpoint(
    run: Path | str, stage: str, folder: Path, number: int | None = None, *, rejected: bool = False
) -> StageCheckpoint:
    """Copy the artefact of a stage into a new folder; the run stays as it is.

    Raises:
        ValueError: As ``restore_checkpoint``, or where the folder holds something already.
    """
    checkpoint = select_checkpoint(read_checkpoints(run), run, stage, number)
    checkpoint = _usable(checkpoint, rejected=rejected)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder}: expected a new or an empty folder, found something there; nothing was written"
        )
    _copy(checkpoint, folder)
    return checkpoint


def _usable(checkpoint: StageCheckpoint, *, rejected: bool) -> StageCheckpoint:
    if checkpoint.state == "unfinished":
        raise ValueError(f"{checkpoint.folder}: {checkpoint.name} is not finished; its run can go on with it")
    if checkpoint.checksums != "good":
        raise ValueError(f"{checkpoint.name} cannot be restored: {checkpoint.checksums}")
    if checkpoint.state == "rejected" and not rejected:
        raise ValueError(
            f"{checkpoint.name} was rejected ({checkpoint.gate['reason']}); --rejected takes it all the same"
        )
    return checkpoint


def _copy(checkpoint: StageCheckpoint, target: Path) -> None:
    def compare(folder: Path) -> None:
        if (found := sha256_folder(folder)) != checkpoint.sha256:
            raise ValueError(
                f"{folder}: expected sha256 {checkpoint.sha256}, found {found}; the disk may be failing"
            )

    def fill(fresh: Path) -> None:
        shutil.copytree(checkpoint.artifact, fresh, dirs_exist_ok=True)
        compare(fresh)  # before it takes the place of what is there

    write_folder(target, fill)
    compare(target)


def _keep(run: Path, checkpoints: list[StageCheckpoint]) -> Path | None:
    """Copy the result away if no stage of the run has it: somebody has put it there."""
    result = run / "artifact"
    if not result.exists() or any(checkpoint.is_result for checkpoint in checkpoints):
        return None
    kept = run / f"artifact-{sha256_folder(result)[:12]}"
    if not kept.exists():

        def fill(fresh: Path) -> None:
            shutil.copytree(result, fresh, dirs_exist_ok=True)

        write_folder(kept, fill)
    return kept


def _remember(run: Path, record: dict[str, Any], checkpoint: StageCheckpoint) -> None:
    manifest = read_manifest(run / "artifact")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {
        "stage": checkpoint.stage,
        "number": checkpoint.number,
        "accepted": checkpoint.state == "accepted",
    }
    before = str(record["level"])
    accepted = [stage["name"] for stage in record["stages"] if stage["accepted"]]
    record.pop("restored", None)
    if not told["accepted"] or accepted[-1:] != [checkpoint.stage]:  # else it is what the run had come to
        record["restored"] = {**told, "time": now, "from": before}
    record |= {"success": True, "level": checkpoint.stage}
    record["artifact"] = {
        "path": str(run / "artifact"),
        "num_bytes": manifest.num_bytes,
        "tokenizer_bytes": manifest.tokenizer_bytes,
        "ratio": checkpoint.outcome["ratio"],
        "bits_per_weight": manifest.bits_per_weight,
        "sha256": checkpoint.sha256,
        "parts": manifest.bytes_by_part(),
    }
    with EventLog(run / EVENTS_NAME) as log:
        log.append("restored", **told, previous=before, sha256=checkpoint.sha256)
    write_record(run / RECORD_NAME, record)
