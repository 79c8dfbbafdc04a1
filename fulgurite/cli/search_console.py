"""What a search shows: a bar on a terminal, a line for each trial that ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from fulgurite.search.results import count_line, format_param, format_value, short_names
from fulgurite.search.storage import shown
from fulgurite.search.study import Claimed, Study
from fulgurite.search.view import TrialView
from fulgurite.search.worker import Listener

_STYLES = {"done": "green", "rejected": "yellow", "pruned": "yellow", "failed": "red"}


class SearchConsole(Listener):
    """Print what the workers of a study tell.

    Args:
        study: That is searched.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._names = short_names([dimension.key for dimension in study.settings.space])
        self._console = Console(highlight=False)
        self._lock = Lock()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._all = self._progress.add_task("trials", total=study.settings.trials)
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> Self:
        settings = self._study.settings
        wanted = ", ".join(f"{o.metric} ({o.direction})" for o in settings.objectives)
        there = self._study.trials()
        self._print(f"search {settings.name}   {self._study.folder}   {shown(self._study.url)}")
        self._print(f"{wanted}   sampler {settings.sampler['type']}   {settings.trials} trials")
        if there:
            self._print(f"going on with {count_line(there)}")
        self._progress.start()
        self._advance()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def began(self, claimed: Claimed) -> None:
        """A line where a trial is gone on with; on a terminal a spinner."""
        number = claimed.trial.number
        if claimed.resumed:
            self._print(f"trial {number} was cut off and goes on")
        with self._lock:
            told = f"trial {number}  {self._params(claimed.params)}"
            self._tasks[number] = self._progress.add_task(told, total=None)

    def judged(self, claimed: Claimed, stage: str, metrics: Mapping[str, float]) -> None:
        """The spinner says how the trial is doing."""
        told = "  ".join(
            format_value(name, metrics[name]) for name in ("bytes", "retention") if name in metrics
        )
        with self._lock:
            task = self._tasks[claimed.trial.number]
            self._progress.update(task, description=f"trial {claimed.trial.number}  {stage}: {told}")

    def finished(self, trial: TrialView) -> None:
        """A line for each trial."""
        with self._lock:
            if (task := self._tasks.pop(trial.number, None)) is not None:
                self._progress.remove_task(task)
        parts = [f"trial {trial.number:>3}  {trial.state:<8}"]
        for objective, value in zip(self._study.settings.objectives, trial.values, strict=False):
            parts.append(f"{objective.metric} {format_value(objective, value)}")
        parts.append(self._params(trial.params))
        if trial.reason:
            parts.append(f"({trial.reason})")
        self._print("   ".join(parts), style=_STYLES.get(trial.state))
        self._advance()

    def closing(self, study: Study, reasons: Sequence[str], paths: Sequence[Path]) -> None:
        """What there is, and where."""
        trials = study.trials()
        self._print(f"{count_line(trials)}   ({'; '.join(dict.fromkeys(reasons)) or 'failed'})")
        for trial in trials:
            if trial.state == "failed":
                self._print(f"failed     trial {trial.number}: {trial.reason}", style="red")
        for path in paths:
            self._print(f"recipe     {path}")
        self._print(f"page       {study.folder / 'study.md'}")

    def _params(self, params: Mapping[str, Any]) -> str:
        return "  ".join(
            f"{self._names.get(key, key)}={format_param(value)}" for key, value in params.items()
        )

    def _advance(self) -> None:
        ended = sum(trial.state != "running" for trial in self._study.trials())
        self._progress.update(self._all, completed=ended)

    def _print(self, text: str, style: str | None = None) -> None:
        with self._lock:
            self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
