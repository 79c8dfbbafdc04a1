"""What a search has found: recipes that can be run, a table, plots.

study -> best.yaml | pareto/trial-NNN.yaml, study.md, study.json, plots/*.png
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fulgurite.artifact.files import write_file, write_folder
from fulgurite.reporting.figures import save_png
from fulgurite.reporting.markdown import fence
from fulgurite.reporting.table import escape_markdown, markdown_rows
from fulgurite.reporting.units import UNKNOWN, format_bytes, format_percent, format_ratio, format_time
from fulgurite.search.plots import plot_history, plot_importance, plot_trade
from fulgurite.search.settings import Objective, SearchSettings
from fulgurite.search.study import Study
from fulgurite.search.view import TrialView, front_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def write_results(study: Study, command: str) -> list[Path]:
    """Write all that a study's results consist of; what an earlier call wrote is replaced.

    Args:
        study: With as many trials as there are.
        command: That goes on with the search.

    Returns:
        The recipes: the best one, or the front's.
    """
    folder, settings, trials = study.folder, study.settings, study.trials()
    front = front_of(trials, settings.objectives)
    paths = _write_recipes(study, front)
    importance, why_not = importance_of(study)
    figures = {
        "trade": plot_trade(settings, trials),
        "importance": plot_importance(importance),
        "history": plot_history(settings, trials),
    }
    for name, figure in figures.items():
        if figure is not None:
            save_png(figure, folder / "plots" / f"{name}.png")
    shown = [name for name, figure in figures.items() if figure is not None]
    page = study_markdown(
        settings, trials, command, [path.relative_to(folder) for path in paths], shown, why_not
    )
    write_file(folder / "study.md", page.encode())
    content = {
        "name": settings.name,
        "objectives": [vars(objective) for objective in settings.objectives],
        "front": [trial.number for trial in front],
        "importance": importance,
        "trials": [trial.to_dict() for trial in trials],
    }
    write_file(folder / "study.json", json.dumps(content, indent=1).encode())
    return paths


def importance_of(study: Study) -> tuple[dict[str, dict[str, float]], str]:
    """How much of an objective's variation each key accounts for, by Optuna's fANOVA; or why that is not known.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014,
    https://proceedings.mlr.press/v32/hutter14.html.
    """
    import optuna

    done = [trial for trial in study.trials() if trial.state in ("done", "rejected")]
    varied = [
        dimension.key
        for dimension in study.settings.space
        if len({repr(trial.params.get(dimension.key)) for trial in done}) > 1
    ]
    if len(done) < 4 or len(varied) < 2:
        return {}, f"{len(done)} finished trials over {len(varied)} keys that varied are too few to tell"
    found: dict[str, dict[str, float]] = {}
    for place, objective in enumerate(study.settings.objectives):
        try:
            found[objective.metric] = optuna.importance.get_param_importances(
                study.shared,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                params=varied,
                target=partial(_value, place),
            )
        except ImportError:
            return {}, "scikit-learn is not installed"
        except (ValueError, RuntimeError) as error:
            return {}, f"Optuna's evaluator says: {' '.join(str(error).split())}"
    return found, ""


def _value(place: int, trial: FrozenTrial) -> float:
    return float(trial.values[place])


def count_line(trials: Sequence[TrialView]) -> str:
    """Such as ``12 trials: 9 done, 2 pruned, 1 failed``."""
    counts = Counter[str](trial.state for trial in trials)
    states = ("done", "rejected", "pruned", "failed", "running")
    told = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
    return f"{len(trials)} trials: {told}" if trials else "no trials"


def format_value(objective: Objective | str, value: float | None) -> str:
    """A number of an objective as people read it."""
    metric = objective if isinstance(objective, str) else objective.metric
    if value is None:
        return UNKNOWN
    if metric == "bytes":
        return f"{value:,.0f}"
    if metric == "ratio":
        return format_ratio(value)
    if metric.startswith("retention"):
        return format_percent(value)
    if metric == "seconds":
        return format_time(value)
    return f"{value:.4g}"


def format_param(value: Any) -> str:
    """A value that was drawn."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Keys without what they all begin with, up to a dot."""
    parts = [key.split(".") for key in keys]
    common = 0
    while all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return {key: ".".join(part[common:]) for key, part in zip(keys, parts, strict=True)}


def study_markdown(
    settings: SearchSettings,
    trials: Sequence[TrialView],
    command: str,
    recipes: Sequence[Path],
    plots: Sequence[str],
    why_not: str,
) -> str:
    """The page of a study."""
    front = {trial.number for trial in front_of(trials, settings.objectives)}
    several = len(settings.objectives) > 1
    wanted = ", ".join(f"{objective.metric} ({objective.direction})" for objective in settings.objectives)
    lead = f"{count_line(trials)}. Objectives: {wanted}. Sampler {settings.sampler['type']}, seed {settings.seed}."
    parts = [f"# {escape_markdown(settings.name)}", escape_markdown(lead), fence(command, "sh")]
    parts += [f"## {'The front' if several else 'The best'}"]
    if recipes:
        parts += [fence("\n".join(f"fulgurite compress --config {path}" for path in recipes), "sh")]
        parts += [_trial_table(settings, [trial for trial in trials if trial.number in front], front)]
    else:
        parts += ["No trial has a result that its gates let pass."]
    alts = {
        "trade": "Bytes against quality of every trial; the line is the front, hollow marks were rejected.",
        "importance": "Share of an objective's variation that each key accounts for.",
        "history": "Objectives trial by trial, with the best so far.",
    }
    parts += [f"![{alts[name]}](plots/{name}.png)\n\n{alts[name]}" for name in plots]
    if why_not:
        parts += [f"Importance of the keys: {escape_markdown(why_not)}."]
    parts += ["## All trials", _trial_table(settings, trials, front)]
    lost = [trial for trial in trials if trial.reason]
    if lost:
        parts += ["## Given up, rejected or failed"]
        parts += ["\n".join(f"- trial {t.number}, {t.state}: {escape_markdown(t.reason)}" for t in lost)]
    return "\n\n".join(parts) + "\n"


def _trial_table(settings: SearchSettings, trials: Sequence[TrialView], front: set[int]) -> str:
    names = short_names([dimension.key for dimension in settings.space])
    metrics = [objective.metric for objective in settings.objectives]
    extra = [metric for metric in ("bytes", "retention") if metric not in metrics]
    header = ["trial", "state", *metrics, *extra, *names.values()]
    rows = [
        [
            f"{trial.number}{' *' if trial.number in front else ''}",
            trial.state,
            *(format_value(metric, (trial.metrics or {}).get(metric)) for metric in [*metrics, *extra]),
            *(format_param(trial.params[key]) if key in trial.params else UNKNOWN for key in names),
        ]
        for trial in trials
    ]
    return markdown_rows(header, rows, [True, False, *[True] * (len(header) - 2)])


def _write_recipes(study: Study, front: Sequence[TrialView]) -> list[Path]:
    best, pareto = study.folder / "best.yaml", study.folder / "pareto"
    if len(study.settings.objectives) == 1:
        if not front:
            best.unlink(missing_ok=True)
            return []
        write_file(best, _recipe(study, front[0], best).encode())
        return [best]
    if not front:
        shutil.rmtree(pareto, ignore_errors=True)
        return []
    paths = [pareto / f"trial-{trial.number:03d}.yaml" for trial in front]

    def fill(fresh: Path) -> None:
        for path, trial in zip(paths, front, strict=True):
            (fresh / path.name).write_text(_recipe(study, trial, path), encoding="utf-8")

    write_folder(pareto, fill)
    return paths


def _recipe(study: Study, trial: TrialView, path: Path) -> str:
    metrics: Mapping[str, float] = trial.metrics or {}
    told = [f"{format_bytes(metrics['bytes'])}" if "bytes" in metrics else UNKNOWN]
    told += [
        f"{name} {format_value(name, metrics[name])}" for name in ("ratio", "retention") if name in metrics
    ]
    told += [
        f"{o.metric} {format_value(o, value)}"
        for o, value in zip(study.settings.objectives, trial.values, strict=True)
    ]
    head = (
        f"# fulgurite compress --config {path}\n# Trial {trial.number} of the search {study.settings.name}: "
    )
    body = yaml.safe_dump(study.recipe(trial.params), sort_keys=False, allow_unicode=True)
    return f"{head}{', '.join(dict.fromkeys(told))}.\n{body}"
