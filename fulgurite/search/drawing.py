"""Optuna's samplers and pruners by the names of a search file."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import optuna

from fulgurite.search.settings import SearchSettings
from fulgurite.search.space import Value


def make_sampler(settings: SearchSettings, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler; a grid's points wait in the study already.

    Raises:
        ValueError: If it does not take one of its settings.
    """
    known = {
        "tpe": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
        "grid": optuna.samplers.RandomSampler,
        "nsga2": optuna.samplers.NSGAIISampler,
    }
    given = {key: value for key, value in settings.sampler.items() if key != "type"}
    try:
        return known[settings.sampler["type"]](seed=seed, **given)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ValueError(f"sampler {settings.sampler['type']}: {error}") from error


def make_pruner(settings: SearchSettings) -> optuna.pruners.BasePruner:
    """A pruner.

    Raises:
        ValueError: If it does not take one of its settings.
    """
    known = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "percentile": optuna.pruners.PercentilePruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }
    given = {key: value for key, value in settings.pruner.items() if key != "type"}
    try:
        return known[settings.pruner["type"]](**given)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ValueError(f"pruner {settings.pruner['type']}: {error}") from error


def enqueue_grid(study: optuna.Study, settings: SearchSettings) -> None:
    """Let the points of a grid wait in a study, as many as there are trials; those there already stay as they are.

    Where the grid has more points than there are trials, they are drawn from all over it.
    """
    if settings.sampler["type"] != "grid":
        return
    axes = [dimension.grid() for dimension in settings.space]
    size, keys = math.prod(map(len, axes)), [dimension.key for dimension in settings.space]
    places = range(size)
    chosen = (
        places if size <= settings.trials else random.Random(settings.seed).sample(places, settings.trials)
    )
    there = {repr(trial.system_attrs.get("fixed_params")) for trial in study.get_trials(deepcopy=False)}
    for place in chosen:
        point = dict(zip(keys, _point(axes, place), strict=True))
        if repr(point) not in there:
            study.enqueue_trial(point)


def _point(axes: Sequence[Sequence[Value]], place: int) -> list[Value]:
    """The point of a grid at a place; the last axis goes fastest, as in ``itertools.product``."""
    found: list[Value] = []
    for axis in reversed(axes):
        place, index = divmod(place, len(axis))
        found.append(axis[index])
    return found[::-1]
