"""Paired comparisons: intervals that cover, p-values, Holm's correction by hand, effect sizes by hand."""

import math

import numpy as np
import pytest

from fulgurite.analysis.comparison import (
    bootstrap_p,
    cliffs_delta,
    cohens_d,
    compare,
    difference_draws,
    difference_interval,
)
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.multiple import holm
from fulgurite.evaluation.statistics import Floats


def measure(items: Floats, weights: Floats | None = None, higher: bool = True) -> Measure:
    weights = np.ones(len(items)) if weights is None else weights
    return Measure("score", items, weights, np.zeros(len(items)), higher, "")


def test_holm_is_the_step_down_by_hand() -> None:
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and none below one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_one_alone_stays_below_one_and_skips_what_has_no_value() -> None:
    assert holm([0.2]) == [0.2]
    assert holm([0.8, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        holm([1.5])


def test_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hard = rng.normal(size=60)  # what makes an item hard is common to both
        before, after = measure(hard), measure(hard + 0.3 + rng.normal(size=60))
        found = difference_interval(before, after, resamples=400, seed=trial)
        covered += found.low <= 0.3 <= found.high
    # 190 of 200 to be expected; a binomial leaves [181, 199] once in 400
    assert 178 <= covered <= 199


def test_difference_is_weighted_and_above_zero_is_better_whatever_the_direction() -> None:
    weights = np.array([1.0, 3.0])
    before, after = np.array([2.0, 6.0]), np.array([1.0, 5.0])
    found = difference_interval(measure(before, weights, higher=False), measure(after, weights, higher=False))
    assert found.point == pytest.approx(0.5)  # 8 / 4 - 6 / 4
    draws = difference_draws(measure(before, weights), measure(after, weights), 500, 0)
    # only the first item: -1 / 1; only the second: -1 / 3; one of each: -2 / 4
    assert {round(value, 6) for value in draws} == {-1.0, -0.333333, -0.5}


def test_p_is_twice_the_smaller_side_and_never_zero() -> None:
    assert bootstrap_p(np.array([1.0, 2, 3, -1, 4, 5, 6, 7, 8])) == pytest.approx(2 * 2 / 10)
    assert bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.zeros(9)) == 1
    assert bootstrap_p(np.array([math.nan])) is None


def test_equal_networks_are_seldom_told_apart_and_different_ones_are() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(size=200)
    base = {"score": measure(hard)}
    noisy = {f"same {k}": {"score": measure(hard + rng.normal(size=200))} for k in range(10)}
    better = {"better": {"score": measure(hard + 0.5 + rng.normal(size=200))}}
    found = {one.name: one for one in compare(base, noisy | better, resamples=2000)}
    assert found["better"].significant
    assert found["better"].difference > 0
    assert not any(found[name].significant for name in noisy)
    assert all(one.p is not None and one.p_holm is not None and one.p_holm >= one.p for one in found.values())


def test_effect_sizes_by_hand() -> None:
    differences = np.array([1.0, 2.0, 3.0, -2.0])
    # mean 1, deviations 0 1 2 -3: variance 14 / 3
    assert cohens_d(differences) == pytest.approx(1 / math.sqrt(14 / 3))
    assert cliffs_delta(differences) == pytest.approx(0.5)
    assert cliffs_delta(np.array([0.0, 0.0, 1.0, -1.0])) == 0


def test_effect_sizes_without_a_value() -> None:
    assert cohens_d(np.zeros(5)) == 0
    assert cohens_d(np.full(5, 0.1)) is None  # no spread to divide by
    assert cohens_d(np.array([1.0])) is None
    assert cohens_d(np.array([1.0, math.nan])) is None
    assert cliffs_delta(np.array([math.nan])) is None


def test_a_correlation_has_no_effect_size_of_items() -> None:
    targets = np.arange(20.0)
    rng = np.random.default_rng(2)

    def correlated(noise: float) -> Measure:
        items = targets + noise * rng.normal(size=20)
        return Measure("spearman", items, np.ones(20), np.zeros(20), True, "", "spearman", targets)

    [found] = compare({"spearman": correlated(0.1)}, {"worse": {"spearman": correlated(20)}}, resamples=500)
    assert found.difference < 0
    assert found.cohens_d is None
    assert found.cliffs_delta is None


def test_a_network_that_diverged_has_no_p() -> None:
    [found] = compare(
        {"score": measure(np.ones(5))}, {"lost": {"score": measure(np.full(5, math.nan))}}, resamples=200
    )
    assert found.p_holm is None
    assert not found.significant
    assert found.to_dict()["difference"] is None


def test_networks_that_were_not_judged_alike_are_refused() -> None:
    base = {"score": measure(np.ones(5))}
    with pytest.raises(ValueError, match="5 items, got 4"):
        compare(base, {"other": {"score": measure(np.ones(4))}})
    with pytest.raises(ValueError, match="score is missing"):
        compare(base, {"other": {}})
    with pytest.raises(ValueError, match="found none"):
        compare(base, {})
