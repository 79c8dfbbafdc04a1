"""The front, and how long nothing has joined it."""

from fulgurite.search.settings import Objective
from fulgurite.search.view import State, TrialView, front_of, since_improvement

BOTH = (Objective("bytes", "minimize"), Objective("retention", "maximize"))


def trials(*values: tuple[float, float], state: State = "done") -> list[TrialView]:
    return [TrialView(number, state, {}, pair) for number, pair in enumerate(values)]


def test_the_front_leaves_out_what_another_dominates() -> None:
    found = front_of(trials((100, 0.5), (200, 0.9), (150, 0.4), (200, 0.8), (300, 0.95)), BOTH)
    assert [trial.number for trial in found] == [0, 1, 4]


def test_of_equal_trials_the_first_stands_for_all() -> None:
    assert [trial.number for trial in front_of(trials((100, 0.5), (100, 0.5)), BOTH)] == [0]


def test_rejected_trials_are_on_no_front() -> None:
    assert front_of(trials((100, 0.5), state="rejected"), BOTH) == []


def test_one_objective_has_one_best() -> None:
    found = front_of(
        [TrialView(n, "done", {}, (value,)) for n, value in enumerate((3.0, 5.0, 5.0))], BOTH[1:]
    )
    assert [trial.number for trial in found] == [1]


def test_trials_without_improvement_are_counted() -> None:
    pruned = [TrialView(4, "pruned", {}), TrialView(5, "running", {})]  # what runs is not counted
    assert since_improvement([*trials((100, 0.5), (200, 0.9), (200, 0.8), (100, 0.5)), *pruned], BOTH) == 3
    assert since_improvement(trials((100, 0.5), (50, 0.4)), BOTH) == 0
