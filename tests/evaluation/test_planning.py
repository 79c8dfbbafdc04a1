"""What can be told beforehand: who decides, how much each counts, and how many harmless stages would be rejected."""

import math

import numpy as np
import pytest

from fulgurite.evaluation import Gate, Measure


def quiz(share: float, n: int, name: str = "quiz", chance: float = 0.25) -> Measure:
    right = (np.arange(n) < share * n).astype(float)
    return Measure(name, right, np.ones(n), np.full(n, chance), True, "%")


def harmless(reference: Measure, seed: int) -> Measure:
    """As many answers lost as won on average: a tenth of variance is not shared, as planning assumes."""
    share = reference.value
    changed = 0.1 * share * (1 - share)  # of all items, for the worse and for the better
    chance = np.random.default_rng(seed).random(reference.items.size)
    keeps = np.where(reference.items == 1, chance >= changed / share, chance < changed / (1 - share))
    return Measure(
        reference.name, keeps.astype(float), reference.weights, reference.chance_items, True, reference.unit
    )


def test_the_error_of_a_retention_is_that_of_simulated_stages() -> None:
    reference = quiz(0.6, 800)
    (planned,) = Gate().plan([reference]).measures
    kept = [(harmless(reference, seed).value - 0.25) / (0.6 - 0.25) for seed in range(400)]
    assert planned.error == pytest.approx(np.std(kept), rel=0.15)  # 400 runs: 3.5 %


def test_the_share_of_harmless_stages_rejected_is_as_foreseen() -> None:
    gate, reference = Gate(stage_retention=(0.9,), resamples=400), quiz(0.6, 300)
    plan = gate.plan([reference])
    foreseen = plan.harmless_rejected(0.9)
    assert 0.05 < foreseen < 0.6  # something to see
    rejected = [
        not gate.decide([reference], [reference], [harmless(reference, seed)], 0).accepted
        for seed in range(200)
    ]
    assert np.mean(rejected) == pytest.approx(foreseen, abs=0.075)  # three standard errors of 200 runs


def test_more_items_are_as_many_as_are_needed() -> None:
    gate = Gate(stage_retention=(0.9,))
    plan = gate.plan([quiz(0.6, 400)])
    times = plan.more_items(0.9)
    assert times > 1
    larger = gate.plan([quiz(0.6, math.ceil(400 * times))])
    assert larger.harmless_rejected(0.9) == pytest.approx(0.05, abs=0.003)
    assert larger.tells(0.9) == pytest.approx(0.1, rel=0.02)
    assert gate.plan([quiz(0.6, 40_000)]).more_items(0.9) == 1
    assert plan.more_items(1.0) == math.inf  # nothing shows that all is kept


def test_a_noisy_measure_weighs_less_and_sure_ones_alike() -> None:
    plan = Gate().plan([quiz(0.7, 20_000, "large"), quiz(0.7, 40_000, "larger"), quiz(0.7, 100, "small")])
    large, larger, small = plan.weights(0.98)
    assert (large, larger) == (1, 1)
    # error 0.447 * sqrt(0.21 / 99) / 0.45 = 4.6 %; enough would be 2 % / 3.29 = 0.61 %
    assert small == pytest.approx((0.0061 / 0.0457) ** 2, rel=0.02)
    assert plan.weights(0.5)[2] == 1, "sure enough for a coarser question"
    assert plan.error(0.98) < 0.0061


def test_of_many_measures_at_chance_none_is_taken_for_knowledge() -> None:
    runs = []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        guesses = [
            Measure(
                str(k),
                (generator.random(300) < 0.25).astype(float),
                np.ones(300),
                np.full(300, 0.25),
                True,
                "%",
            )
            for k in range(8)
        ]
        runs.append(any(each.informative for each in Gate(resamples=1000).plan(guesses).measures))
    # one by one, 1 - 0.95 ** 8 = 34 % of runs would have one; 5 % and three standard errors of 100 runs
    assert np.mean(runs) <= 0.115


def test_measures_at_chance_take_no_part() -> None:
    plan = Gate().plan([quiz(0.25, 400, "guessing"), quiz(0.7, 400)])
    assert [each.informative for each in plan.measures] == [False, True]
    assert len(plan.weights(0.98)) == 1


def test_benchmarks_cut_to_one_size_are_not_taken_for_the_same_items() -> None:
    generator = np.random.default_rng(0)
    answers = [(generator.random(400) < 0.7).astype(float) for _ in range(8)]
    quizzes = [
        Measure(str(k), items, np.ones(400), np.full(400, 0.25), True, "%") for k, items in enumerate(answers)
    ]
    plan = Gate().plan(quizzes)
    assert len({each.group for each in plan.measures}) == 8
    # the mean of eight errors of 2 to 3 points falls by the root of eight
    alone = [each.error for each in plan.measures]
    assert plan.error(0.5) == pytest.approx(np.sqrt(np.mean(np.square(alone)) / 8))
    # the same items in another unit, and the other way round, are no news
    bits = Measure("bits", 4 - quizzes[0].items, np.ones(400), np.full(400, 3.75), False, "bits")
    again = Gate().plan([quizzes[0], bits])
    assert [each.group for each in again.measures] == [0, 0]
    assert again.error(0.5) == pytest.approx(np.mean([each.error for each in again.measures]))


def test_of_few_items_nobody_knows_whether_they_are_related() -> None:
    items = np.random.default_rng(1).integers(0, 2, (2, 20)).astype(float)
    pair = [Measure(str(k), each, np.ones(20), np.full(20, 0.25), True, "%") for k, each in enumerate(items)]
    assert [each.group for each in Gate().plan(pair).measures] == [0, 0]
