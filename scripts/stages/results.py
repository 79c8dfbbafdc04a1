"""What the runs have come to: scores by item, what is kept of them, and who is best at a ratio.

run -> record.json, scores.npz -> Row -> kept above chance, drawn [draws] -> interval, ranking, differences
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from stages.techniques import RATIOS, Network

from fulgurite.analysis.runs import has_ended, run_recipe
from fulgurite.artifact.files import write_file
from fulgurite.artifact.manifest import read_manifest
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.measure import Measure, retention
from fulgurite.evaluation.statistics import (
    Floats,
    Interval,
    informative,
    lower_bound,
    retention_draws,
    upper_bound,
)
from fulgurite.reporting.record import read_record

RESAMPLES = 2000
"""Draws of the bootstrap, as many as the gate takes: a correlation has to be taken anew of each."""

_SIDE = 0.975  # each side of a central interval of 95 %
_OUT_OF_REACH = re.compile(r"[^:]* cannot be met: the least possible is [\d,]+ bytes")


@dataclass(frozen=True)
class Row:
    """A network coded by a technique at a ratio.

    Args:
        name: Of the technique.
        num_bytes: Of what was limited: the artefact, or the coded weights.
        scores: Its measures.
        reference: Those of the reference.
        seconds: That coding took.
        factored: How many weights hold factors of low rank, of how many that may; ``None`` where none may.
    """

    name: str
    num_bytes: int
    scores: Mapping[str, Measure]
    reference: Mapping[str, Measure]
    seconds: float
    factored: tuple[int, int] | None = None

    @cached_property
    def draws(self) -> Floats:
        """Mean share of the reference's advantage over chance that is kept, on each draw of the items.

        The mean is over the measures that say anything of the reference, as the gate takes it.
        """
        pairs = self._informative
        return np.mean(
            [retention_draws(*pair, resamples=RESAMPLES) for pair in pairs] or [[math.nan]], axis=0
        )

    @cached_property
    def kept(self) -> Interval:
        """The same over all items, with its interval."""
        points = [retention(*pair) for pair in self._informative] or [math.nan]
        return Interval(float(np.mean(points)), *_bounds(self.draws))

    @cached_property
    def _informative(self) -> list[tuple[Measure, Measure]]:
        """The reference's measures and these, where the reference is above chance."""
        return [(before, self.scores[name]) for name, before in self.reference.items() if informative(before)]

    def over(self, other: Row) -> Interval:
        """How much more is kept than by another, drawn in pairs."""
        return Interval(self.kept.point - other.kept.point, *_bounds(self.draws - other.draws))


def _bounds(draws: Floats) -> tuple[float, float]:
    return lower_bound(draws, _SIDE), upper_bound(draws, _SIDE)


def apart(difference: Interval) -> bool:
    """Whether an interval leaves 0 out."""
    return difference.low > 0 or difference.high < 0


def run(folder: Path, name: str, recipe: Mapping[str, Any]) -> None:
    """Run a recipe where it has not ended; a budget that cannot be met ends it too, and is written down.

    Raises:
        RuntimeError: If it fails for another reason.
    """
    if has_ended(folder, name, recipe, ()) or out_of_reach(folder, name, recipe):
        return
    try:
        run_recipe(folder, name, recipe)
    except RuntimeError as error:
        found = _OUT_OF_REACH.search(str(error))
        if found is None:
            raise
        least = {"stages": _stages(recipe), "reason": found[0]}
        write_file(folder / f"{name}.least", json.dumps(least).encode())


def out_of_reach(folder: Path, name: str, recipe: Mapping[str, Any]) -> str:
    """What was too much to ask of a recipe's last stage, or nothing."""
    path = folder / f"{name}.least"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return str(found["reason"]).strip() if found.get("stages") == _stages(recipe) else ""


def _stages(recipe: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(recipe["cascade"]["stages"]))


def read_rows(folder: Path, network: Network) -> dict[int, list[Row]]:
    """The rows of a network by ratio, the best first; without those that are not there yet."""
    found: dict[int, list[Row]] = {ratio: [] for ratio in RATIOS}
    for technique in network.compared:
        tries = read_tries(
            folder / f"{network.key}_{technique.key}", technique.title, network.num_bytes is None
        )
        for ratio in RATIOS:
            if f"x{ratio}" in tries:
                found[ratio].append(tries[f"x{ratio}"])
    return {ratio: ranked(rows) for ratio, rows in found.items()}


def read_tries(folder: Path, name: str, weights_alone: bool = False) -> dict[str, Row]:
    """What each stage of a run has come to, whatever the gate said, by the stage's name."""
    if not (folder / "record.json").is_file() or not (folder / "reference.npz").is_file():
        return {}
    record = read_record(folder / "record.json")
    reference = _measures(folder / "reference.npz")
    rows = {}
    for stage in record["stages"]:
        for attempt in stage["tries"]:
            scores = folder / "stages" / stage["name"] / f"try-{attempt['number']}" / "scores.npz"
            if attempt["gate"] is not None and scores.is_file():
                size = _coded_bytes(attempt) if weights_alone else int(attempt["num_bytes"])
                seconds = float(attempt["seconds"]["encode"] + attempt["seconds"]["refine"])
                factored = _factored(scores.with_name("artifact"))
                rows[str(stage["name"])] = Row(name, size, _measures(scores), reference, seconds, factored)
    return rows


def _factored(artifact: Path) -> tuple[int, int] | None:
    """Weights with factors, of those whose code says a rank."""
    manifest = read_manifest(artifact)
    metas = [manifest.layouts[index].meta for index, _ in manifest.weights.values()]
    ranks = [int(meta["rank"]) for meta in metas if "rank" in meta]
    return (sum(rank > 0 for rank in ranks), len(ranks)) if ranks else None


def _measures(path: Path) -> dict[str, Measure]:
    return {measure.name: measure for measure in Evaluation.load(path).measures}


def _coded_bytes(attempt: Mapping[str, Any]) -> int:
    """Bytes of the weights that a try has coded."""
    return sum(int(layer["num_bytes"]) for layer in attempt["layers"])


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The best first; what has no number last."""
    return sorted(rows, key=lambda row: -row.kept.point if math.isfinite(row.kept.point) else math.inf)
