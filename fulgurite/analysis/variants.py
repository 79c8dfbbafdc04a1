"""The recipes of a study: a cascade without each of its stages, or with its stages in another order.

recipe -> its stages -> variants: a label and the stages in order -> recipe_of -> a recipe of its own

A run is named by its stages, so that an ablation and a study of orders in one folder share the runs that they share.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

ALL = "all stages"
"""Label of the variant that an ablation is held against: the recipe as it is."""

_LENGTH = 120  # characters of a folder's name
_LAX = {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01}


@dataclass(frozen=True)
class Variant:
    """One recipe of a study.

    Args:
        label: For a reader.
        stages: Names of its stages in order.
    """

    label: str
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its run's folder."""
        joined = ".".join(self.stages)
        if len(joined) <= _LENGTH:
            return joined
        return f"{joined[: _LENGTH - 9]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"


def stages_of(recipe: Mapping[str, Any], only: Sequence[str] = ()) -> list[str]:
    """The stages of a recipe that a study takes.

    Args:
        recipe: As YAML gives it.
        only: Some of them; all where none is given.

    Raises:
        ValueError: If the recipe has fewer than two, or not all that are asked for.
    """
    stages = [str(name) for name in ((recipe.get("cascade") or {}).get("stages") or {})]
    unknown = [name for name in only if name not in stages]
    if unknown:
        raise ValueError(
            f"no stage {unknown[0]!r} in cascade.stages; known are {', '.join(stages) or 'none'}"
        )
    chosen = [name for name in stages if not only or name in only]
    if len(chosen) < 2:
        raise ValueError(
            f"a study needs at least two stages in cascade.stages, got {', '.join(chosen) or 'none'}"
        )
    return chosen


def ablation_variants(stages: Sequence[str]) -> list[Variant]:
    """The whole cascade, then one without each stage.

    Example:
        >>> [variant.stages for variant in ablation_variants(["prune", "ecq"])]
        [('prune', 'ecq'), ('ecq',), ('prune',)]
    """
    left_out = [
        Variant(f"without {name}", tuple(other for other in stages if other != name)) for name in stages
    ]
    return [Variant(ALL, tuple(stages)), *left_out]


def order_variants(stages: Sequence[str], most: int = 24, seed: int = 0) -> list[Variant]:
    """The stages in the recipe's order, then in others: all of them where they are few.

    Args:
        stages: In the recipe's order.
        most: Orders at most, the recipe's included; beyond it they are drawn at random. 24 are all of 4 stages.
        seed: Of the draw.

    Raises:
        ValueError: If ``most`` is below 2.
    """
    if most < 2:
        raise ValueError(f"a study of orders needs at least 2 of them, got {most}")
    own = tuple(stages)
    if math.factorial(len(own)) <= most:
        orders = list(permutations(own))  # begins with the order that it is given
    else:
        generator, found = random.Random(seed), {own: None}
        while len(found) < most:
            found[tuple(generator.sample(own, len(own)))] = None
        orders = list(found)
    return [Variant(", ".join(order), order) for order in orders]


def recipe_of(
    recipe: Mapping[str, Any],
    variant: Variant,
    *,
    cache_dir: str,
    limit_windows: int | None = None,
    threads: int | None = None,
    keep_gate: bool = False,
) -> dict[str, Any]:
    """The recipe of one run of a study.

    Stages that the study does not vary would stand in no order, so only the variant's are kept. The gate lets
    everything pass that is above chance, unless it is kept: a study asks what each variant comes to.

    Args:
        recipe: As YAML gives it.
        variant: Which stages, in which order.
        cache_dir: Where the reference's scores are kept over all runs.
        limit_windows: Items to judge by, where the recipe does not say.
        threads: For the arithmetic, where the recipe does not say.
        keep_gate: Judge by the recipe's own gate and checks, with its retries.
    """
    made: dict[str, Any] = copy.deepcopy(dict(recipe))
    cascade = made["cascade"]
    cascade["stages"] = {name: cascade["stages"][name] for name in variant.stages}
    cascade["report"] = False
    cascade["cache_dir"] = cache_dir
    for key, value in (("limit_windows", limit_windows), ("threads", threads)):
        if value is not None and cascade.get(key) is None:
            cascade[key] = value
    if not keep_gate:
        cascade["gate"] = {**(cascade.get("gate") or {}), **_LAX}
        cascade.pop("checks", None)
        cascade["retries"] = 0
        cascade["on_reject"] = "continue"
        for stage in cascade["stages"].values():
            for settings in (stage, stage.get("init_args") or {}):
                for key in ("min_retention", "retries"):
                    settings.pop(key, None)
    made.pop("output_dir", None)
    return made
