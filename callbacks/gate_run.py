"""A gate within a run: what it will be able to tell, said beforehand, and verdicts by no more items than they take.

reference -> plan -> nothing informative? refused, unless allowed -> loss that is told, items needed
          -> checks of behaviour that it fails itself
try -> all items at once, or look by look until the verdict is sure -> scores, verdict -> checks of behaviour
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from callbacks.level import Level
from callbacks.stages.stage import Stage
from callbacks.stages.structure import StructuralStage
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.gate import Gate
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.planning import Plan
from fulgurite.evaluation.sequential import look_confidences, look_sizes, shuffled
from fulgurite.evaluation.stage_checks import with_checks
from fulgurite.evaluation.verdict import Verdict
from lightning_modules.compressible import EvaluatesItems

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun

Scores = tuple[Evaluation, Verdict, dict[str, int] | None]


def needed_by(gate: Gate, index: int, stage: Stage) -> float:
    """Retention that a stage must reach."""
    return gate.needed(index) if stage.min_retention is None else stage.min_retention


def foresee(gate: Gate, stages: Mapping[str, Stage], plan: Plan) -> list[dict[str, Any]]:
    """For each stage: what it needs, the loss that is told from none, harmless stages rejected, items to mend that.

    Empty where nothing is informative.
    """
    if not plan.useful:
        return []
    found = []
    for index, (name, stage) in enumerate(stages.items()):
        needed = needed_by(gate, index, stage)
        more = plan.more_items(needed)
        found.append(
            {
                "stage": name,
                "needed": needed,
                "tells": plan.tells(needed),
                "harmless_rejected": plan.harmless_rejected(needed),
                "more_items": more if math.isfinite(more) else None,
            }
        )
    return found


def require_information(plan: Plan, *, allowed: bool) -> None:
    """Refuse a run in which no verdict can be had.

    Raises:
        ValueError: If no measure is informative and that is not allowed.
    """
    if plan.useful or allowed:
        return
    names = ", ".join(
        f"{measure.name} ({measure.value:.4g}, chance {measure.chance:.4g}, {measure.items} items)"
        for measure in plan.measures
    )
    raise ValueError(
        f"no measure can decide, so no stage could be accepted: the reference itself is at chance on {names}; "
        "give other or more held-out data, or --allow-uninformative to see what stages make all the same"
    )


def check_behaviour(
    run: CascadeRun, evaluation: Evaluation, index: int, verdict: Verdict
) -> tuple[Verdict, list[dict[str, Any]] | None]:
    """A verdict with what the checks say, and the checks as plain JSON; ``None`` where none are asked for."""
    settings = run.cascade.checks
    if settings is None:
        return verdict, None
    reference = Evaluation.load(run.folder.path / "reference.npz")
    last = index == len(run.cascade.stages) - 1
    checks = settings.judge(reference.measures, evaluation.measures, last=last)
    return with_checks(verdict, checks), [check.to_dict() for check in checks]


def evaluate_and_decide(
    run: CascadeRun, network: Any, name: str, index: int, stage: Stage, level: Level
) -> Scores:
    """Score a try and judge it; with ``gate.looks`` above 1 by as few items as a sure verdict takes.

    Returns:
        Scores and verdict, and how many items they took; ``None`` where all were seen at once.
    """
    gate = run.cascade.gate
    reference = Evaluation.load(run.folder.path / "reference.npz")
    needed, plan = needed_by(gate, index, stage), run.plan
    items, _ = looked_at(run, reference.measures)
    if items is None:
        evaluation = run.evaluate(network, name)
        verdict = gate.decide(
            reference.measures, level.measures, evaluation.measures, index, needed=needed, plan=plan
        )
        return evaluation, verdict, None
    order = shuffled(items, gate.seed).tolist()
    sizes = look_sizes(items, gate.looks)
    levels = look_confidences(tuple(size / items for size in sizes), gate.confidence)
    evaluation, seen = Evaluation(()), 0
    for look, (size, confidence) in enumerate(zip(sizes, levels, strict=True), 1):
        evaluation = joined(evaluation, run.evaluate(network, name, order[seen:size]), seen, size)
        seen = size
        before = [measure.take(order[:size]) for measure in reference.measures]
        last = _previous(run, level, order, size, before)
        told = {"seen": size, "of": items, "look": look, "most": len(sizes)}
        if size == items:
            final = replace(gate, confidence=confidence)
            verdict = final.decide(before, last, evaluation.measures, index, needed, plan)
            return evaluation, verdict, told
        sure = gate.look(before, last, evaluation.measures, needed, plan, confidence)
        if sure is not None:
            return evaluation, sure, told
    raise AssertionError("the last look sees all items")


def looked_at(run: CascadeRun, reference: Sequence[Measure]) -> tuple[int | None, str]:
    """Items that looks are taken at, or ``None`` and why all are seen at once; the same for all tries of a run."""
    if run.cascade.gate.looks == 1:
        return None, ""
    module = run.reference.module
    if run.cascade.checks is not None:
        return None, "a check is of all items"
    if any(isinstance(stage, StructuralStage) for stage in run.cascade.stages.values()):
        return None, "a stage makes another network, whose items may be others"
    if not isinstance(module, EvaluatesItems):
        return None, f"{type(module).__name__} scores all items together"
    items = module.item_count(run.datamodule, run.cascade.limit_windows)
    if items is None or any(measure.items.size != items for measure in reference):
        return None, "its measures are of different items"
    return items, ""


def joined(first: Evaluation, second: Evaluation, count: int, total: int) -> Evaluation:
    """Scores of some items and of further ones; facts are means by items, of a perplexity the geometric one.

    Args:
        first: Of ``count`` items; without measures where there are none yet.
        second: Of the further ones, ``total`` in all.
        count: See above.
        total: See above.
    """
    if not first.measures:
        return second
    measures = []
    for one, other in zip(first.measures, second.measures, strict=True):
        arrays = {field: np.concatenate([array, other.arrays[field]]) for field, array in one.arrays.items()}
        measures.append(replace(one, **arrays))  # type: ignore[arg-type]
    share = count / total
    facts: dict[str, float | None] = {}
    for name, value in second.facts.items():
        before = first.facts.get(name)
        if value is None or before is None:
            facts[name] = None
        elif name == "perplexity" and min(before, value) > 0:
            facts[name] = math.exp(share * math.log(before) + (1 - share) * math.log(value))
        else:
            facts[name] = share * before + (1 - share) * value
    return Evaluation(measures, facts)


def _previous(
    run: CascadeRun, level: Level, order: list[int], size: int, reference: list[Measure]
) -> list[Measure]:
    """What the last level scored on the first items of the order; those that it was not judged by are scored now."""
    if level.folder is None:
        return reference
    known = level.measures[0].items.size
    if known < size:
        network = run.devices.network(level.folder)
        further = run.evaluate(network, level.name, order[known:size])
        level.measures[:] = joined(Evaluation(level.measures), further, known, size).measures
        Evaluation(level.measures).save(level.folder.parent / "scores.npz")
    return [measure.take(range(size)) for measure in level.measures]
