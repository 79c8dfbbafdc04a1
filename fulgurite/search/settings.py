"""What a search file says.

configs/search/<name>.yaml -> read_search -> SearchSettings, or a sentence that says what is wrong in it
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from fulgurite.search.space import Dimension, read_space

Direction = Literal["minimize", "maximize"]

SAMPLERS = ("tpe", "random", "grid", "nsga2")
PRUNERS = ("none", "median", "percentile", "halving", "hyperband")
METRICS: dict[str, Direction] = {
    "bytes": "minimize",
    "ratio": "maximize",
    "bits_per_weight": "minimize",
    "retention": "maximize",
    "retention_low": "maximize",
    "latency_ms": "minimize",
    "seconds": "minimize",
}
"""Numbers of a run that can be an objective, and which way is better; beside them ``score/<measure>`` and
``retention/<measure>``."""


@dataclass(frozen=True)
class Objective:
    """A number of a run, and which way is better.

    Args:
        metric: One of ``METRICS``, ``score/<measure>`` or ``retention/<measure>``.
        direction: ``minimize`` or ``maximize``.
    """

    metric: str
    direction: Direction

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one < other if self.direction == "minimize" else one > other


@dataclass(frozen=True)
class Early:
    """When a trial is given up before its end.

    Args:
        min_retention: A stage that keeps less of the reference ends the trial, a fraction.
        limit_windows: A run that measures on this many windows goes before each trial; what does not keep
            ``min_retention`` there, or falls behind by the pruner's rule, is not run on all of them.
    """

    min_retention: float | None = None
    limit_windows: int | None = None

    def __post_init__(self) -> None:
        if self.min_retention is not None and not -1 <= self.min_retention <= 1:
            raise ValueError(f"early.min_retention must be in [-1, 1], got {self.min_retention}")
        if self.limit_windows is not None and self.limit_windows < 2:
            raise ValueError(f"early.limit_windows must be at least 2, got {self.limit_windows}")


@dataclass(frozen=True)
class SearchSettings:
    """A search.

    Args:
        name: Of the study, in its storage too.
        recipe: The recipe that is searched around.
        space: The keys that vary.
        objectives: One, or several for a Pareto front.
        overrides: Keys of the recipe that are set to one value for all trials.
        trials: How many, with those that fail or are given up.
        timeout_minutes: No trial begins after this time; those that run are finished.
        sampler: ``tpe``, ``random``, ``grid`` or ``nsga2``, with settings of Optuna's.
        pruner: Which trials are given up, by the objective after each stage; one objective only.
        early: Which trials are given up, whatever the objectives.
        patience: Finished trials without an improvement after which no other begins.
        storage: SQLAlchemy's address of a database; by default SQLite in the study's folder.
        seed: Of the sampler.
        workers: Trials at a time in this process.
    """

    name: str
    recipe: Path
    space: tuple[Dimension, ...]
    objectives: tuple[Objective, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 20
    timeout_minutes: float | None = None
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"type": "tpe"})
    pruner: Mapping[str, Any] = field(default_factory=lambda: {"type": "none"})
    early: Early = field(default_factory=Early)
    patience: int | None = None
    storage: str | None = None
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("trials", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"early_stopping.patience must be at least 1, got {self.patience}")
        if self.timeout_minutes is not None and not self.timeout_minutes > 0:
            raise ValueError(f"timeout_minutes must be above 0, got {self.timeout_minutes}")
        if len(self.objectives) > 1 and self.pruner["type"] != "none":
            raise ValueError(
                f"pruner {self.pruner['type']} works on one objective, got {len(self.objectives)}; "
                "early.min_retention gives trials up whatever the objectives"
            )
        twice = sorted(set(self.overrides) & {dimension.key for dimension in self.space})
        if twice:
            raise ValueError(f"overrides sets {twice[0]}, which is in space too")

    @property
    def identity(self) -> dict[str, Any]:
        """What may not change while a study goes on."""
        return {
            "recipe": yaml.safe_load(self.recipe.read_text(encoding="utf-8")),
            "overrides": dict(self.overrides),
            "space": {dimension.key: repr(dimension) for dimension in self.space},
            "objectives": {objective.metric: objective.direction for objective in self.objectives},
            "early": {"min_retention": self.early.min_retention, "limit_windows": self.early.limit_windows},
        }


def read_search(path: Path) -> SearchSettings:
    """Read a search file.

    Raises:
        ValueError: If it is missing, no YAML, or says something that cannot be; names file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such search") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a search in YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a search, a mapping of keys, got {type(content).__name__}")
    try:
        return _settings(path, dict(content))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _settings(path: Path, content: dict[str, Any]) -> SearchSettings:
    known = [entry.name for entry in fields(SearchSettings) if entry.name != "patience"]
    _check_keys("", content, [*known, "early_stopping"])
    missing = [key for key in ("recipe", "space", "objectives") if key not in content]
    if missing:
        raise ValueError(f"must have the key {missing[0]!r}, got {', '.join(content) or 'none'}")
    stopping = _mapping("early_stopping", content.pop("early_stopping", {}))
    _check_keys("early_stopping.", stopping, ["patience"])
    early = _mapping("early", content.pop("early", {}))
    _check_keys("early.", early, ["min_retention", "limit_windows"])
    kinds: dict[str, type | tuple[type, ...]] = {"trials": int, "workers": int, "seed": int}
    for key, kind in {**kinds, "timeout_minutes": (int, float)}.items():
        if content.get(key) is not None and (
            isinstance(content[key], bool) or not isinstance(content[key], kind)
        ):
            raise ValueError(f"{key} must be a number, got {content[key]!r}")
    recipe = Path(str(content.pop("recipe")))
    beside = path.parent / recipe
    if not recipe.is_file() and not beside.is_file():
        raise ValueError(f"recipe {recipe}: no such file, neither here nor beside the search")
    return SearchSettings(
        name=str(content.pop("name", path.stem)),
        recipe=recipe if recipe.is_file() else beside,
        space=read_space(content.pop("space")),
        objectives=_objectives(content.pop("objectives")),
        overrides=_mapping("overrides", content.pop("overrides", {})),
        sampler=_named("sampler", content.pop("sampler", "tpe"), SAMPLERS),
        pruner=_named("pruner", content.pop("pruner", "none"), PRUNERS),
        early=Early(**early),
        patience=stopping.get("patience"),
        **content,
    )


def _objectives(content: Any) -> tuple[Objective, ...]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"objectives must be a list of {{metric, direction}}, got {content!r}")
    found = tuple(_objective({"metric": entry} if isinstance(entry, str) else entry) for entry in content)
    metrics = [objective.metric for objective in found]
    if len(set(metrics)) != len(metrics):
        raise ValueError(f"objectives must differ, got {', '.join(metrics)}")
    return found


def _objective(entry: Any) -> Objective:
    entry = _mapping("objectives", entry)
    _check_keys("objectives.", entry, ["metric", "direction"])
    metric = str(entry.get("metric"))
    group, _, measure = metric.partition("/")
    if metric not in METRICS and not (group in ("score", "retention") and measure):
        near = difflib.get_close_matches(metric, METRICS, n=2)
        hint = f"near: {', '.join(near)}" if near else f"known are {', '.join(METRICS)} and score/<measure>"
        raise ValueError(f"objectives: no metric {metric!r}; {hint}")
    direction = entry.get("direction", METRICS.get(metric, "maximize" if group == "retention" else None))
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"objective {metric}: direction must be minimize or maximize, got {direction!r}")
    return Objective(metric, direction)


def _named(what: str, content: Any, known: tuple[str, ...]) -> dict[str, Any]:
    entry = {"type": content} if isinstance(content, str) else _mapping(what, content)
    if entry.get("type") not in known:
        raise ValueError(f"{what}.type must be one of {', '.join(known)}, got {entry.get('type')!r}")
    return entry


def _mapping(what: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} must be a mapping, got {content!r}")
    return {str(key): value for key, value in content.items()}


def _check_keys(prefix: str, content: Mapping[str, Any], known: list[str]) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=2)
            hint = f"near: {', '.join(near)}" if near else f"known are {', '.join(known)}"
            raise ValueError(f"unknown key {prefix}{key}; {hint}")


def finite(value: float | None) -> bool:
    """Whether a number can be the value of an objective."""
    return value is not None and math.isfinite(value)
