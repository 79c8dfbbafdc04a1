"""Experts of a mixture, each with a benchmark of its own: their scores one by one, and weighted as the mixture is.

experts.json: names, weights, benchmarks -> ExpertMixture
scores of the benchmarks -> expert/<name> for each, and experts, the weighted one -> measures for a gate

{"experts": [{"name": "science", "weight": 0.6, "benchmark": "arc_easy"},
{"name": "stories", "weight": 0.4, "benchmark": "last_word"}]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.evaluation.measure import Measure

PREFIX = "expert/"
WEIGHTED = "experts"


@dataclass(frozen=True)
class Expert:
    """One expert.

    Args:
        name: Its own.
        weight: Its part of the mixture; the weights need not sum to 1.
        benchmark: Task of ``configs/benchmarks`` that it is measured by.
    """

    name: str
    weight: float
    benchmark: str


@dataclass(frozen=True)
class ExpertMixture:
    """Experts and their weights.

    Args:
        experts: One or more, of different names.

    Raises:
        ValueError: If there are none, two have one name, or the weights are not usable.
    """

    experts: tuple[Expert, ...]

    def __post_init__(self) -> None:
        names = [expert.name for expert in self.experts]
        if not names:
            raise ValueError("experts must have at least one, got none")
        if len(set(names)) < len(names):
            raise ValueError(f"experts must have different names, got {', '.join(names)}")
        for expert in self.experts:
            if not (math.isfinite(expert.weight) and expert.weight >= 0):
                raise ValueError(f"expert {expert.name!r}: weight must be at least 0, got {expert.weight}")
        if sum(expert.weight for expert in self.experts) == 0:
            raise ValueError(
                f"weights of the experts must not sum to 0, got {[e.weight for e in self.experts]}"
            )

    @classmethod
    def read(cls, path: str | Path) -> ExpertMixture:
        """Read a JSON file.

        Raises:
            ValueError: If it is missing, of another form, or an expert lacks something; says what and which.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: expected experts in JSON: {error}") from error
        listed = found.get("experts") if isinstance(found, Mapping) else None
        if not isinstance(listed, list):
            raise ValueError(f'{path}: expected {{"experts": [...]}}, found {str(found)[:60]!r}')
        try:
            return cls(tuple(_expert(number, each) for number, each in enumerate(listed, 1)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Those of the experts, each once."""
        return tuple(dict.fromkeys(expert.benchmark for expert in self.experts))

    def measures(self, found: Mapping[str, Measure]) -> tuple[Measure, ...]:
        """A measure for each expert, then the weighted one.

        The items of all experts make up the weighted measure; an expert's items weigh as much together as the
        mixture says, however many they are.

        Args:
            found: Measures by benchmark.

        Raises:
            ValueError: If scores are of different kinds, which have no weighted mean.
        """
        chosen = [found[expert.benchmark] for expert in self.experts]
        kinds = {(one.unit, one.higher_is_better) for one in chosen}
        if len(kinds) > 1:
            units = ", ".join(
                f"{e.name}: {one.name} in {one.unit}" for e, one in zip(self.experts, chosen, strict=True)
            )
            raise ValueError(f"experts must have benchmarks of one unit, got {units}")
        each = tuple(replace(one, name=PREFIX + e.name) for e, one in zip(self.experts, chosen, strict=True))
        total = sum(expert.weight for expert in self.experts)
        factors = [
            expert.weight / total / float(one.weights.sum())
            for expert, one in zip(self.experts, chosen, strict=True)
        ]
        weighted = replace(
            chosen[0],
            name=WEIGHTED,
            items=_joined(factors, [one.items for one in chosen]),
            weights=_joined(factors, [one.weights for one in chosen]),
            chance_items=_joined(factors, [one.chance_items for one in chosen]),
        )
        return (*each, weighted)


def _expert(number: int, given: Any) -> Expert:
    if not isinstance(given, Mapping):
        raise ValueError(f"expert {number}: expected an object, found {given!r}")
    name = given.get("name", number)
    for field, kind in (("name", str), ("weight", (int, float)), ("benchmark", str)):
        if field not in given or given[field] in (None, ""):
            raise ValueError(f"expert {name!r}: expected a {field}, found the fields {', '.join(given)}")
        if not isinstance(given[field], kind) or isinstance(given[field], bool):
            raise ValueError(f"expert {name!r}: {field} is {given[field]!r}, expected {_KINDS[field]}")
    return Expert(given["name"], float(given["weight"]), given["benchmark"])


_KINDS = {"name": "a text", "weight": "a number", "benchmark": "the name of a benchmark"}


def _joined(factors: Sequence[float], arrays: Sequence[Any]) -> Any:
    # experts of no weight have no part: else their items, weighing nothing, would be among the gate's
    return np.concatenate(
        [factor * array for factor, array in zip(factors, arrays, strict=True) if factor > 0]
    )
