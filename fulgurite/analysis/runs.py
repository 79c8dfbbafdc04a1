"""Runs of a study, each ``fulgurite compress`` in a process of its own; what has ended is not run again.

    STUDY/<name>.yaml -> fulgurite compress -> STUDY/<name>/, STUDY/<name>.txt -> STUDY/<name>.ended

A run that was cut off has no stamp: the same command goes on in its folder, by the cascade's own resume.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fulgurite.artifact.files import write_file
from fulgurite.artifact.lock import is_free
from fulgurite.processes import end_process, last_words

_POLL = 0.2  # seconds
_PLACES = ("cache_dir",)  # where a study lies is nothing that its runs depend on
_DONE = (0, 3)  # 3: no stage was accepted, which is a result too

Started = Callable[["subprocess.Popen[bytes]"], None]


def has_ended(study: Path, name: str, recipe: Mapping[str, Any], flags: Sequence[str]) -> bool:
    """Whether a run of just this recipe came to its end."""
    stamp = study / f"{name}.ended"
    record = study / name / "record.json"
    return record.is_file() and stamp.is_file() and stamp.read_text() == _stamp(recipe, flags)


def run_recipe(
    study: Path,
    name: str,
    recipe: Mapping[str, Any],
    flags: Sequence[str] = (),
    *,
    started: Started | None = None,
) -> bool:
    """Run a recipe where it has not ended yet, or go on with it where it was cut off.

    Args:
        study: Folder of the study.
        name: Of the run's folder in it.
        recipe: As YAML gives it.
        flags: Further arguments of ``fulgurite compress``.
        started: Told of the process.

    Returns:
        Whether it was run; not where it had ended.

    Raises:
        RuntimeError: If the run fails; says with what.
        KeyboardInterrupt: If the user stops it; the run may write what it has.
    """
    import yaml

    if has_ended(study, name, recipe, flags):
        return False
    folder, path, log = study / name, study / f"{name}.yaml", study / f"{name}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    # a run whose study was killed may still be at it: what it makes is not made again
    while not is_free(folder):
        time.sleep(_POLL)
    write_file(path, yaml.safe_dump(dict(recipe), sort_keys=False).encode())  # the order of stages counts
    command = [sys.executable, "-m", "fulgurite.cli.main", "compress", "--config", str(path)]
    status = _run([*command, "--output_dir", str(folder), *flags], log, started)
    if status not in _DONE:
        raise RuntimeError(
            f"{folder}: {last_words(log, status)}; all of it is in {log}, the same command goes on"
        )
    write_file(study / f"{name}.ended", _stamp(recipe, flags).encode())
    return True


def _run(command: Sequence[str], log: Path, started: Started | None) -> int:
    environment = {key: value for key, value in os.environ.items() if key != "FULGURITE_OUTPUT_DIR"}
    with log.open("ab") as file:
        # in a session of its own: a Ctrl-C at the terminal reaches the study alone, which passes it on once
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
        try:
            if started is not None:
                started(process)
            return process.wait()
        finally:
            end_process(process)


def _stamp(recipe: Mapping[str, Any], flags: Sequence[str]) -> str:
    import yaml

    cascade = {key: value for key, value in (recipe.get("cascade") or {}).items() if key not in _PLACES}
    asked = yaml.safe_dump([{**recipe, "cascade": cascade}, list(flags)], sort_keys=False)
    return hashlib.sha256(asked.encode()).hexdigest() + "\n"
