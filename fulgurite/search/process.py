"""A run in a process of its own, watched through its event log.

fulgurite compress --config FOLDER/recipe.yaml --output_dir FOLDER/run -> output.txt, events.jsonl -> Ended
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from fulgurite.artifact.lock import is_free
from fulgurite.processes import end_process, last_words
from fulgurite.reporting.events import read_events
from fulgurite.search.metrics import metrics_of_try

_POLL = 0.3  # seconds

Watcher = Callable[[str, int, Mapping[str, float]], str | None]
"""Told of a stage's name, its place from 0 and its metrics; a sentence ends the run."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Args:
        status: Its exit status; below 0 the signal that killed it.
        pruned: Why the watcher ended it, if it did.
        stopped: Whether the user stopped the search.
        error: What it said last, where it failed.
    """

    status: int
    pruned: str | None = None
    stopped: bool = False
    error: str = ""


def compress(folder: Path, run: str, config: str, stop: Event, watch: Watcher | None = None) -> Ended:
    """Run ``fulgurite compress``, or go on with it where it was cut off.

    Args:
        folder: Of the trial.
        run: Name of the run's folder in it.
        config: Name of the recipe in it.
        stop: Set when the user stops the search.
        watch: Told of each stage that is judged.
    """
    output = folder / run
    output.mkdir(exist_ok=True)
    # a run whose search was killed may still be at it: what it makes is not made again
    while not is_free(output) and not stop.wait(_POLL):
        pass
    arguments = ["compress", "--config", str(folder / config), "--output_dir", str(output)]
    return run_process(
        [sys.executable, "-m", "fulgurite.cli.main", *arguments],
        folder / f"{run}.txt",
        stop,
        None if watch is None else _judged(output, watch),
    )


def run_process(
    command: Sequence[str], output: Path, stop: Event, check: Callable[[], str | None] | None = None
) -> Ended:
    """Run a command with its output in a file.

    Args:
        command: Program and arguments.
        output: What it prints is added here.
        stop: Ends it when set; it may write what it has.
        check: Called while it runs; a sentence ends it.
    """
    environment = {key: value for key, value in os.environ.items() if key != "FULGURITE_OUTPUT_DIR"}
    pruned, stopped = None, False
    with output.open("ab") as file:
        # in a session of its own: a Ctrl-C at the terminal reaches the search alone, which passes it on once
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                stopped = stop.wait(_POLL)
                pruned = check() if check is not None and not stopped else None
                if stopped or pruned is not None:
                    break
        finally:
            end_process(process)
    if pruned is None and not stopped and process.returncode not in (0, 3):
        return Ended(process.returncode, error=last_words(output, process.returncode))
    return Ended(process.returncode, pruned, stopped)


def _judged(run: Path, watch: Watcher) -> Callable[[], str | None]:
    """Tell a watcher of each stage once, when its last try was judged."""
    told: set[str] = set()

    def check() -> str | None:
        places: dict[str, int] = {}
        last: dict[str, Mapping[str, Any]] = {}
        for event in read_events(run):
            stage = str(event.get("stage"))
            if event["event"] == "stage":
                places.setdefault(stage, len(places))
            elif event["event"] == "try":
                last[stage] = event
            elif event["event"] in ("accepted", "rolled back") and stage in last and stage not in told:
                told.add(stage)
                reason = watch(stage, places.get(stage, 0), metrics_of_try(last[stage]))
                if reason is not None:
                    return reason
        return None

    return check
