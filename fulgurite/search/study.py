"""A study: its database, its folder, and the next trial to run.

storage -> Study.claim -> a trial that was cut off, else a new one -> Claimed -> Study.tell

Workers share a study through its database; those of one folder take turns through a lock on it, so that a trial is
drawn by one of them only and no more are drawn than were asked for. A trial's folder is locked while a worker has
it: one that is not finished and whose folder is free was cut off, and is gone on with.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from fulgurite.artifact.files import write_file
from fulgurite.artifact.lock import FolderLock
from fulgurite.search.drawing import enqueue_grid, make_pruner, make_sampler
from fulgurite.search.recipes import with_values
from fulgurite.search.settings import SearchSettings
from fulgurite.search.storage import open_storage, shown
from fulgurite.search.view import State, TrialView, since_improvement

_STALE = 60.0  # seconds after which a trial that no folder belongs to was cut off while it was drawn


@dataclass
class Claimed:
    """A trial that this worker has.

    Args:
        trial: Optuna's.
        folder: Of the trial.
        params: What was drawn.
        lock: Held until the trial is told.
        resumed: Whether an earlier worker had begun it.
    """

    trial: optuna.Trial
    folder: Path
    params: dict[str, Any]
    lock: FolderLock
    resumed: bool


class Study:
    """See the module.

    Args:
        settings: Of the search.
        folder: Of the study; made where it is missing.

    Raises:
        ValueError: If the database cannot be reached, or holds another search by this name.
    """

    def __init__(self, settings: SearchSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self.url = os.path.expandvars(settings.storage or f"sqlite:///{folder / 'study.db'}")
        self._recipe: dict[str, Any] = yaml.safe_load(settings.recipe.read_text(encoding="utf-8"))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        with FolderLock(folder, wait=True):
            self.storage = open_storage(self.url)
            self._optuna = optuna.create_study(
                storage=self.storage,
                study_name=settings.name,
                directions=[objective.direction for objective in settings.objectives],
                pruner=make_pruner(settings),
                load_if_exists=True,
            )
            self._check_identity()
            enqueue_grid(self._optuna, settings)

    @property
    def shared(self) -> optuna.Study:
        """Optuna's study, which all workers share."""
        return self._optuna

    def claim(self) -> Claimed | str:
        """The next trial for this worker, or why there is none."""
        with FolderLock(self.folder, wait=True):
            trials = self._optuna.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state == TrialState.RUNNING and (claimed := self._take_over(frozen)) is not None:
                    return claimed
            reason = self._enough(trials)
            return reason if reason is not None else self._draw(trials)

    def tell(
        self,
        claimed: Claimed,
        state: State,
        *,
        reason: str = "",
        metrics: Mapping[str, float] | None = None,
        missed: float = 0.0,
    ) -> TrialView:
        """Keep how a trial ended, and let go of it.

        Args:
            claimed: The trial.
            state: How it ended.
            reason: Why it was pruned, rejected or failed.
            metrics: What its result measured.
            missed: By how much a rejected trial missed its gate.
        """
        trial = claimed.trial
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("metrics", dict(metrics or {}))
        trial.set_user_attr("state", state)
        if state != "failed":
            trial.set_constraint("gate", missed)  # samplers prefer what is at most 0
        values = None
        if state in ("done", "rejected"):
            values = [(metrics or {})[objective.metric] for objective in self.settings.objectives]
        told = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}.get(state, TrialState.COMPLETE)
        self._optuna.tell(trial, values, state=told)
        claimed.lock.release()
        return self.view(self.storage.get_trial(trial._trial_id))

    def trials(self) -> list[TrialView]:
        """All trials of the study, of all its workers."""
        trials = self._optuna.get_trials(deepcopy=False)
        return [self.view(frozen) for frozen in trials if frozen.state != TrialState.WAITING]

    @staticmethod
    def view(frozen: FrozenTrial) -> TrialView:
        """A trial without its library."""
        attributes = frozen.user_attrs
        state: State = attributes.get("state", "failed") if frozen.state.is_finished() else "running"
        values = tuple(frozen.values) if frozen.state == TrialState.COMPLETE else ()
        metrics, reason = attributes.get("metrics"), str(attributes.get("reason", ""))
        return TrialView(frozen.number, state, dict(frozen.params), values, metrics, reason)

    def release(self) -> None:
        """Close the connections to the database."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def recipe(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe of a trial, as ``fulgurite compress --config`` takes it."""
        recipe = with_values(self._recipe, {**self.settings.overrides, **params})
        recipe.pop("output_dir", None)
        return recipe

    def _draw(self, trials: list[FrozenTrial]) -> Claimed:
        # seeded by how many were drawn: a search that goes on draws what one that was not cut off would have drawn
        self._optuna.sampler = make_sampler(self.settings, self.settings.seed + len(trials))
        return self._begin(self._optuna.ask(), resumed=False)

    def _take_over(self, frozen: FrozenTrial) -> Claimed | None:
        """A trial that was cut off; ``None`` where a worker has it, here or elsewhere."""
        home = frozen.user_attrs.get("home")
        if home is not None and home != self._home():
            return None  # of a worker with another folder: it goes on there
        if home is None:  # cut off while it was drawn, or another worker is drawing it just now
            begun = frozen.datetime_start.timestamp() if frozen.datetime_start is not None else 0.0
            if self.settings.storage is not None and time.time() - begun < _STALE:
                return None
        try:
            return self._begin(optuna.Trial(self._optuna, frozen._trial_id), resumed=home is not None)
        except BlockingIOError:
            return None

    def _begin(self, trial: optuna.Trial, *, resumed: bool) -> Claimed:
        """Lock a trial's folder and finish its drawing.

        Raises:
            BlockingIOError: If another worker has it, or had it to its end.
            ValueError: If the folder is of a study that this database does not know.
        """
        folder = self.folder / "trials" / f"{trial.number:03d}"
        if not resumed and (folder / "recipe.yaml").exists():
            raise ValueError(
                f"{folder} is of another study than the one in {shown(self.url)}; move it away, or give another "
                "--output_dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        if not lock.acquire():
            raise BlockingIOError(f"{folder}: another worker has it")
        if self.storage.get_trial(trial._trial_id).state.is_finished():  # since the list of trials was read
            lock.release()
            raise BlockingIOError(f"{folder}: another worker had it to its end")
        trial.set_user_attr("home", self._home())  # first of all: it says whose the folder is
        params = {dimension.key: dimension.suggest(trial) for dimension in self.settings.space}
        if not (folder / "recipe.yaml").exists():
            self._write_recipes(folder, params)
        return Claimed(trial, folder, params, lock, resumed)

    def _write_recipes(self, folder: Path, params: Mapping[str, Any]) -> None:
        recipe = self.recipe(params)
        cascade = recipe.setdefault("cascade", {})
        cascade.setdefault("report", False)  # its plots take longer than a small trial
        cascade.setdefault("threads", max(1, (os.cpu_count() or 1) // self.settings.workers))
        if self.settings.early.limit_windows is not None:
            early = with_values(recipe, {"cascade.limit_windows": self.settings.early.limit_windows})
            write_file(folder / "early.yaml", yaml.safe_dump(early, sort_keys=False).encode())
        write_file(folder / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False).encode())

    def _enough(self, trials: list[FrozenTrial]) -> str | None:
        settings = self.settings
        waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        if len(trials) - waiting >= settings.trials:
            return f"all {settings.trials} trials are drawn"
        if settings.sampler["type"] == "grid" and not waiting:
            return "every point of the grid is drawn"
        minutes = (time.monotonic() - self.began) / 60
        if settings.timeout_minutes is not None and minutes >= settings.timeout_minutes:
            return f"the time of {settings.timeout_minutes:g} minutes is spent"
        views = [self.view(trial) for trial in trials if trial.state != TrialState.WAITING]
        since = since_improvement(views, settings.objectives)
        if settings.patience is not None and since >= settings.patience:
            return f"no improvement in the last {since} trials"
        return None

    def _check_identity(self) -> None:
        """Refuse to mix two searches; both workers of a new study write the same."""
        now = json.loads(json.dumps(self.settings.identity, default=str))
        before = self._optuna.user_attrs.get("identity")
        if before is None:
            self._optuna.set_user_attr("identity", now)
            return
        differing = [key for key in now if before.get(key) != now[key]]
        if differing:
            raise ValueError(
                f"{shown(self.url)} holds a study {self.settings.name!r} with another {differing[0]}; give another "
                "name or --output_dir"
            )

    def _home(self) -> str:
        return f"{os.uname().nodename}:{self.folder.resolve()}" if hasattr(os, "uname") else str(self.folder)
