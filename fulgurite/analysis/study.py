"""A study over a recipe: its variants run, read, and compared with each other on the same items.

recipe, variants -> a run each, resumed -> Outcome: bytes, scores by item
outcomes -> paired comparisons with the recipe as it is -> Study -> study.json, page, plot
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.analysis.comparison import RESAMPLES, Comparison, compare
from fulgurite.analysis.runs import Started, run_recipe
from fulgurite.analysis.variants import Variant
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.statistics import Interval, informative, retention_interval
from fulgurite.reporting.record import read_record

Told = Callable[[int, Variant, bool], None]
"""Of a variant's place, the variant, and whether it has just ended (or is about to run)."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a study has come to.

    Args:
        variant: Its stages.
        accepted: Those whose work is in the result, in order.
        rejected: The others, with what the gate said.
        num_bytes: Of the result; of the reference in fp32 where nothing was accepted.
        ratio: Times smaller than the reference in fp32.
        measures: Of the result, by name; the reference's where nothing was accepted.
        reference: The reference's.
        seconds: That the run took.
    """

    variant: Variant
    accepted: tuple[str, ...]
    rejected: Mapping[str, str]
    num_bytes: int
    ratio: float
    measures: Mapping[str, Measure]
    reference: Mapping[str, Measure]
    seconds: float

    def retention(self, resamples: int = RESAMPLES) -> dict[str, Interval]:
        """What is left of each measure above chance, where the reference is above chance."""
        return {
            name: retention_interval(measure, self.measures[name], resamples=resamples)
            for name, measure in self.reference.items()
            if informative(measure)
        }


@dataclass(frozen=True)
class Study:
    """All variants, and how each differs from the first.

    Args:
        kind: ``ablation`` or ``order``.
        outcomes: The recipe's own first.
        comparisons: Of each other one with it, on each measure; p-values corrected over all.
    """

    kind: str
    outcomes: Sequence[Outcome]
    comparisons: Sequence[Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "kind": self.kind,
            "variants": [
                {
                    "label": one.variant.label,
                    "run": one.variant.name,
                    "stages": list(one.variant.stages),
                    "accepted": list(one.accepted),
                    "rejected": dict(one.rejected),
                    "num_bytes": one.num_bytes,
                    "ratio": one.ratio,
                    "seconds": one.seconds,
                    "scores": {name: _finite(measure.value) for name, measure in one.measures.items()},
                    "retention": {
                        name: {key: _finite(value) for key, value in vars(interval).items()}
                        for name, interval in one.retention().items()
                    },
                }
                for one in self.outcomes
            ],
            "comparisons": [one.to_dict() for one in self.comparisons],
        }


def run_study(
    study: Path,
    variants: Sequence[Variant],
    recipes: Sequence[Mapping[str, Any]],
    flags: Sequence[str] = (),
    *,
    tell: Told | None = None,
    started: Started | None = None,
) -> None:
    """Run what has not ended yet, one variant after another.

    Args:
        study: Folder; made where it is missing.
        variants: In order.
        recipes: One for each.
        flags: Further arguments of each ``fulgurite compress``.
        tell: Told before a variant runs and after it has.
        started: Told of each process.

    Raises:
        RuntimeError: If a run fails.
    """
    study.mkdir(parents=True, exist_ok=True)
    for place, (variant, recipe) in enumerate(zip(variants, recipes, strict=True)):
        if tell is not None:
            tell(place, variant, False)
        run_recipe(study, variant.name, recipe, flags, started=started)
        if tell is not None:
            tell(place, variant, True)


def read_outcome(study: Path, variant: Variant) -> Outcome:
    """What a run that has ended has come to.

    Raises:
        ValueError: If it has not ended, or its files are damaged.
    """
    folder = study / variant.name
    record = _finished_record(folder)
    reference = Evaluation.load(folder / "reference.npz")
    accepted, rejected = [], {}
    num_bytes, measures = int(record["reference"]["num_bytes"]), reference.measures
    for stage in record["stages"]:
        attempt = stage["tries"][-1]
        if not stage["accepted"]:
            rejected[str(stage["name"])] = str(attempt["gate"]["reason"])
            continue
        accepted.append(str(stage["name"]))
        num_bytes = int(attempt["num_bytes"])
        scores = folder / "stages" / stage["name"] / f"try-{attempt['number']}" / "scores.npz"
        measures = Evaluation.load(scores).measures
    return Outcome(
        variant=variant,
        accepted=tuple(accepted),
        rejected=rejected,
        num_bytes=num_bytes,
        ratio=int(record["reference"]["num_bytes"]) / num_bytes,
        measures={measure.name: measure for measure in measures},
        reference={measure.name: measure for measure in reference.measures},
        seconds=float(record["seconds"]),
    )


def read_study(
    study: Path, kind: str, variants: Sequence[Variant], *, resamples: int = RESAMPLES, seed: int = 0
) -> Study:
    """Read all runs of a study and compare them with the first.

    Raises:
        ValueError: If a run is missing, or two were not judged on the same items.
    """
    outcomes = [read_outcome(study, variant) for variant in variants]
    first = outcomes[0]
    comparisons = compare(
        first.measures,
        {one.variant.label: one.measures for one in outcomes[1:]},
        against=first.variant.label,
        resamples=resamples,
        seed=seed,
    )
    return Study(kind, outcomes, comparisons)


def _finished_record(folder: Path) -> Mapping[str, Any]:
    if not (folder / "record.json").is_file():
        raise ValueError(f"{folder}: expected a run that has ended, found none")
    record = read_record(folder / "record.json")
    if not record.get("finished"):
        raise ValueError(f"{folder}: expected a run that has ended, found one that was cut off")
    return record


def _finite(value: float) -> float | None:
    return value if json.dumps(value).lstrip("-")[0].isdigit() else None
