r"""A worker: trial after trial, each a run in a process of its own.

claim -> [early run] -> run -> [latency] -> values -> tell
           \-> pruned        \-> pruned, rejected, failed
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import Any

from fulgurite.reporting.record import read_record
from fulgurite.reporting.units import format_percent
from fulgurite.search.metrics import result_of
from fulgurite.search.process import Ended, compress, run_process
from fulgurite.search.settings import SearchSettings
from fulgurite.search.study import Claimed, Study
from fulgurite.search.view import TrialView

EARLY, RUN = "early", "run"
_LATENCY = "latency.json"
_ALIKE = 3  # trials that fail alike at the start


class SearchError(ValueError):
    """Something that is wrong for every trial: the search ends."""


class Listener:
    """Is told what happens; does nothing by itself."""

    def began(self, claimed: Claimed) -> None:
        """A trial runs."""

    def judged(self, claimed: Claimed, stage: str, metrics: Mapping[str, float]) -> None:
        """A stage of a trial was judged."""

    def finished(self, trial: TrialView) -> None:
        """A trial has ended."""


def work(study: Study, stop: Event, listener: Listener) -> str:
    """Run trials until there is nothing left to do.

    Args:
        study: Shared with other workers.
        stop: Set when the user stops the search: the trial that runs is cut off, and can be gone on with.
        listener: Is told.

    Returns:
        Why it ended.

    Raises:
        SearchError: If no trial could ever give what the search asks for.
    """
    while not stop.is_set():
        claimed = study.claim()
        if isinstance(claimed, str):
            return claimed
        listener.began(claimed)
        try:
            ended = _Trial(study, claimed, stop, listener).execute()
        finally:
            claimed.lock.release()
        if ended is None:
            break
        listener.finished(ended)
        _check_alike(study)
    return "stopped"


def _check_alike(study: Study) -> None:
    """End a search whose trials cannot work: the first ones have all failed, and alike."""
    ended = [trial for trial in study.trials() if trial.state != "running"]
    if len(ended) >= _ALIKE and {(trial.state, trial.reason) for trial in ended} == {
        ("failed", ended[0].reason)
    }:
        raise SearchError(f"the first {len(ended)} trials failed alike: {ended[0].reason}")


class _Trial:
    """One trial; ``None`` from ``execute`` where the user stopped it."""

    def __init__(self, study: Study, claimed: Claimed, stop: Event, listener: Listener) -> None:
        self.study, self.claimed, self.stop, self.listener = study, claimed, stop, listener
        self.settings: SearchSettings = study.settings
        self.folder: Path = claimed.folder

    def execute(self) -> TrialView | None:
        if self.settings.early.limit_windows is not None:
            ended = self._compress(EARLY, "early.yaml", first_step=0)
            told = self._told(ended)
            if told is not None or ended.stopped:
                return told
            pruned = self._poor(EARLY)
            if pruned is not None:
                return self.study.tell(self.claimed, "pruned", reason=pruned)
        ended = self._compress(RUN, "recipe.yaml", first_step=1)
        told = self._told(ended)
        return told if told is not None or ended.stopped else self._result()

    def _compress(self, run: str, config: str, *, first_step: int) -> Ended:
        if _finished(self.folder / run):  # cut off between its end and the database
            return Ended(0)

        def watch(stage: str, place: int, metrics: Mapping[str, float]) -> str | None:
            self.listener.judged(self.claimed, stage if run == RUN else f"{stage}, {EARLY}", metrics)
            return self._behind(metrics, first_step + place, stage) if run == RUN else None

        ended = compress(self.folder, run, config, self.stop, watch)
        if ended.status < 0 and not (ended.stopped or ended.pruned):
            # killed from outside, for want of memory say: it goes on where it was, once
            ended = compress(self.folder, run, config, self.stop, watch)
        return ended

    def _told(self, ended: Ended) -> TrialView | None:
        if ended.pruned is not None:
            return self.study.tell(
                self.claimed, "pruned", reason=ended.pruned, missed=self._missed(ended.pruned)
            )
        if ended.error:
            return self.study.tell(self.claimed, "failed", reason=ended.error)
        return None

    @staticmethod
    def _missed(pruned: str) -> float:
        return 1.0 if "early.min_retention" in pruned else 0.0

    def _behind(self, metrics: Mapping[str, float], step: int, stage: str) -> str | None:
        """Why a trial is given up after a stage, or ``None``."""
        least = self.settings.early.min_retention
        kept = metrics.get("retention")
        if least is not None and kept is not None and kept < least:
            return f"{stage} keeps {format_percent(kept)}, early.min_retention is {format_percent(least)}"
        objective = self.settings.objectives[0]
        if len(self.settings.objectives) > 1 or self.settings.pruner["type"] == "none":
            return None
        if objective.metric not in metrics:  # known at the end alone, such as a latency
            return None
        trial = self.claimed.trial
        if step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(metrics[objective.metric], step)
        if trial.should_prune():
            return f"{stage}: {objective.metric} {metrics[objective.metric]:g} is behind, by {self._pruner}"
        return None

    @property
    def _pruner(self) -> str:
        return f"the {self.settings.pruner['type']} pruner"

    def _poor(self, run: str) -> str | None:
        """Why a trial is given up after its early run, or ``None``."""
        found = result_of(read_record(self.folder / run))
        if found is None:
            return "the early run judged nothing"
        metrics, missed, reason = found
        if missed > 0:
            return f"{run} run: {reason}"
        return self._behind(metrics, 0, f"{run} run")

    def _result(self) -> TrialView | None:
        found = result_of(read_record(self.folder / RUN))
        if found is None:
            return self.study.tell(self.claimed, "failed", reason="no try of any stage was judged")
        metrics, missed, reason = found
        wanted = [objective.metric for objective in self.settings.objectives]
        if "latency_ms" in wanted:
            ended = self._latency(accepted=missed == 0)
            if ended.stopped:
                return None
            if ended.error:
                return self.study.tell(self.claimed, "failed", reason=ended.error)
            facts: dict[str, Any] = json.loads((self.folder / _LATENCY).read_bytes())
            metrics["latency_ms"] = facts["latency_p50_ms"]
        missing = [metric for metric in wanted if metric not in metrics]
        if missing:
            told = f"objective {missing[0]} was not measured; there are {', '.join(sorted(metrics))}"
            self.study.tell(self.claimed, "failed", reason=told)
            raise SearchError(told)
        state = "rejected" if missed > 0 else "done"
        return self.study.tell(
            self.claimed,
            "rejected" if state == "rejected" else "done",
            reason=reason,
            metrics=metrics,
            missed=missed,
        )

    def _latency(self, *, accepted: bool) -> Ended:
        """Measure the result; of a rejected trial, its last try."""
        output = self.folder / _LATENCY
        if output.exists():
            return Ended(0)
        artifact = self.folder / RUN / "artifact"
        if not accepted:
            tries = (self.folder / RUN / "stages").glob("*/try-*/try.json")
            artifact = max(tries, key=lambda path: path.stat().st_mtime).parent / "artifact"
        command = [sys.executable, "-m", "fulgurite.search.latency", str(artifact), str(output)]
        return run_process(command, self.folder / "latency.txt", self.stop)


def _finished(run: Path) -> bool:
    try:
        return read_record(run)["finished"] is not None
    except (FileNotFoundError, ValueError):  # not begun, or cut by a crash
        return False


def run_workers(
    study: Study, stop: Event, listener: Listener, failed: Callable[[BaseException], None]
) -> list[str]:
    """Run as many workers as the settings ask for, each in a thread; their runs are processes.

    Args:
        study: They share it.
        stop: Ends them.
        listener: Is told by all of them.
        failed: Called with what went wrong in one; the others are ended.

    Returns:
        Why each ended.
    """
    from threading import Thread

    reasons: list[str] = []

    def loop() -> None:
        try:
            reasons.append(work(study, stop, listener))
        except BaseException as error:
            failed(error)
            stop.set()

    threads = [Thread(target=loop, name=f"worker {place}") for place in range(study.settings.workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # short: a signal is looked at between two of them
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return reasons
