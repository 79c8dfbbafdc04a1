"""A study as its results show it, free of the library that drew the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fulgurite.search.settings import Objective

State = Literal["done", "rejected", "pruned", "failed", "running"]


@dataclass(frozen=True)
class TrialView:
    """A trial.

    Args:
        number: From 0, in the order they were drawn.
        state: ``done``: it has a result; ``rejected``: its gates let nothing pass; ``pruned``: given up early;
            ``failed``: its run did not end as it should; ``running``: here or in another worker.
        params: What was drawn, by keys of the recipe.
        values: Of the objectives, in their order; none of a trial that was pruned or failed.
        metrics: All that its result measured.
        reason: Why it was pruned, rejected or failed.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    values: tuple[float, ...] = ()
    metrics: Mapping[str, float] | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return {**vars(self), "values": list(self.values), "params": dict(self.params)}


def dominates(one: TrialView, other: TrialView, objectives: Sequence[Objective]) -> bool:
    """Whether a trial is at least as good in all objectives and better in one."""
    pairs = list(zip(objectives, one.values, other.values, strict=True))
    return any(objective.better(a, b) for objective, a, b in pairs) and not any(
        objective.better(b, a) for objective, a, b in pairs
    )


def front_of(trials: Sequence[TrialView], objectives: Sequence[Objective]) -> list[TrialView]:
    """The trials with a result that no other dominates, by the first objective; of equals the earliest."""
    done = [trial for trial in trials if trial.state == "done"]
    front = [trial for trial in done if not any(dominates(other, trial, objectives) for other in done)]
    first = {trial.values: trial for trial in reversed(front)}
    worst_first = objectives[0].direction == "maximize"
    return sorted(first.values(), key=lambda trial: trial.values[0], reverse=worst_first)


def since_improvement(trials: Sequence[TrialView], objectives: Sequence[Objective]) -> int:
    """How many trials were finished since the last one that joined the front of those before it."""
    finished = [trial for trial in trials if trial.state != "running"]
    reached: list[TrialView] = []
    since = 0
    for trial in finished:
        since += 1
        if trial.state != "done":
            continue
        known = any(other.values == trial.values or dominates(other, trial, objectives) for other in reached)
        if not known:
            since = 0
            reached.append(trial)
    return since
