"""What a benchmark is, and how several become one evaluation.

network, split -> View -> benchmark, benchmark, ... -> measures (per item) and facts -> Evaluation
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.measure import Measure
from fulgurite.models.adapter import ImageTextAdapter


@dataclass(frozen=True)
class Benchmark(ABC):
    """Measures a network on a split of pictures.

    Subclasses are frozen dataclasses, so that a recipe can name one with its settings.
    """

    @abstractmethod
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        """Make sure, before anything is computed, that such a network can be measured so on such data.

        Raises:
            ValueError: If the network lacks what is measured, or the data does.
        """

    @abstractmethod
    def evaluate(self, view: View) -> Evaluation:
        """Measure one network; what is measured on equal splits with equal settings is paired.

        Returns:
            The measures with their per-item results. A network that diverged gives NaN items, not an error.

        Raises:
            ValueError: As ``check``, or if the view has too few pictures.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """All but network and data that the result depends on, as plain JSON; files by their content."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
        return {"benchmark": type(self).__name__, **plain}


def run_benchmarks(benchmarks: Sequence[Benchmark], view: View) -> Evaluation:
    """Measure a network by several benchmarks; all are checked before the first one computes anything.

    Returns:
        Measures in the order of the benchmarks, with all facts.

    Raises:
        ValueError: If there is no benchmark, one cannot measure this network or data, or two of them give a measure
            or a fact of the same name.
    """
    if not benchmarks:
        raise ValueError("benchmarks must have at least one benchmark, got none")
    for benchmark in benchmarks:
        benchmark.check(view.adapter, view.split)
    measures: dict[str, Measure] = {}
    facts: dict[str, float | None] = {}
    for benchmark in benchmarks:
        found = benchmark.evaluate(view)
        named = {measure.name: measure for measure in found.measures}
        _check_new(benchmark, "measures", named, measures)
        _check_new(benchmark, "facts", found.facts, facts)
        measures.update(named)
        facts.update(found.facts)
    return Evaluation(tuple(measures.values()), facts)


def need_vectors(benchmark: Benchmark, adapter: ImageTextAdapter) -> None:
    """Make sure that a network has vectors of pictures and texts.

    Raises:
        ValueError: If it has none.
    """
    if not adapter.has_vectors:
        raise ValueError(
            f"{type(benchmark).__name__} needs a network with vectors of pictures and texts, "
            f"got {adapter.kind}, which has none"
        )


def need_captions(benchmark: Benchmark, split: ImageSplit) -> None:
    """Make sure that each picture has a caption.

    Raises:
        ValueError: If one has none.
    """
    for name, captions in zip(split.names, split.captions, strict=True):
        if not captions:
            raise ValueError(
                f"{type(benchmark).__name__} needs a caption of each picture, "
                f"got none of {name} in {split.description}"
            )


def _check_new(benchmark: Benchmark, kind: str, found: Iterable[str], known: Iterable[str]) -> None:
    twice = sorted(set(found) & set(known))
    if twice:
        raise ValueError(
            f"benchmarks must have {kind} of different names, "
            f"got {', '.join(twice)} of {type(benchmark).__name__} and of one before it"
        )
