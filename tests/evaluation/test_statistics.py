"""Paired bootstrap: bounds that hold as often as they say."""

import math
import tracemalloc

import numpy as np
import pytest

from fulgurite.evaluation import (
    Measure,
    informative,
    minimum_detectable_drop,
    retention,
    retention_draws,
    retention_interval,
)
from fulgurite.evaluation.statistics import (
    chance_p,
    gap_draws,
    lower_bound,
    resampled_counts,
    retained,
    upper_bound,
)


def measure(items: np.ndarray, chance: float = 3.0, name: str = "bits_per_byte") -> Measure:
    ones = np.ones(len(items))
    return Measure(name, items, ones, chance * ones, False, "bits/byte")


def simulated(seed: int, n: int = 120, loss: float = 0.1) -> tuple[Measure, Measure]:
    """Windows of which some are hard for both networks; the margin is 2 bits, the mean loss ``loss``."""
    generator = np.random.default_rng(seed)
    reference = generator.gamma(16, 1 / 16, n)  # mean 1, deviation 0.25
    return measure(reference), measure(reference + loss + 0.1 * generator.standard_normal(n))


def test_bounds_cover_the_true_retention_as_often_as_they_say() -> None:
    truth = 1 - 0.1 / 2
    one_sided = two_sided = 0
    for seed in range(200):
        reference, candidate = simulated(seed)
        draws = retention_draws(reference, candidate, resamples=400, seed=seed)
        one_sided += lower_bound(draws, 0.95) <= truth
        interval = retention_interval(reference, candidate, 0.95, resamples=400, seed=seed)
        two_sided += interval.low <= truth <= interval.high
    # 190 of 200 expected with deviation sqrt(200 * 0.95 * 0.05) = 3.1: three of them either way
    assert 181 <= one_sided <= 199
    assert 181 <= two_sided <= 199


def test_pairing_makes_the_interval_narrow() -> None:
    reference, candidate = simulated(0)
    interval = retention_interval(reference, candidate)
    assert interval.low < interval.point < interval.high
    # per-item losses deviate by 0.1, scores by 0.25: unpaired items would give
    # 2 * 1.96 * sqrt(0.25**2 + 0.27**2) / sqrt(120) / 2 = 0.066
    assert interval.high - interval.low < 0.03


def resampled_sums(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate([counts @ columns for counts in resampled_counts(len(columns), resamples, seed)])


def test_resampled_sums_agree_with_the_theory_of_the_bootstrap() -> None:
    columns = np.random.default_rng(1).normal(5, 2, (50, 1))
    sums = resampled_sums(columns, 4000, seed=0)[:, 0]
    # the sum of n draws has mean n * mean and variance n * population variance
    deviation = math.sqrt(50) * columns.std()
    assert abs(sums.mean() - columns.sum()) < 4 * deviation / math.sqrt(4000)
    assert sums.std() == pytest.approx(deviation, rel=0.05)  # 4 deviations of 1 / sqrt(2 * 4000)


def test_draws_are_seeded_and_keep_items_together() -> None:
    reference, candidate = simulated(2)
    doubled = measure(2 * candidate.items - reference.items)  # twice the loss, item by item
    losses = gap_draws([(reference, candidate), (reference, doubled)], 100, seed=3)
    np.testing.assert_allclose(losses[:, 1], 2 * losses[:, 0])
    np.testing.assert_array_equal(losses, gap_draws([(reference, candidate), (reference, doubled)], 100, 3))
    assert not np.array_equal(losses[:, :1], gap_draws([(reference, candidate)], 100, seed=4))


def test_many_items_stay_within_memory() -> None:
    ones = np.ones(20_000)
    one = Measure("m", np.random.default_rng(0).normal(size=20_000), ones, 0 * ones, True, "")
    ranked = Measure("r", one.items, ones, 0 * ones, True, "", "spearman", one.items)
    for each in (one, ranked):
        tracemalloc.start()
        try:
            gap_draws([(each, each.at_chance())], 400 if each is ranked else 2000, seed=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 200e6  # all indices at once would be 20,000 * 2000 * 8 = 320 MB


def test_a_draw_without_margin_can_only_lower_a_bound() -> None:
    loss, margin = np.array([0.1, 0.1, 0.0, -0.1]), np.array([1.0, 0.0, -1.0, -1.0])
    assert retained(loss, margin).tolist() == [0.9, -math.inf, 1.0, 1.0]


def test_a_reference_at_chance_is_uninformative_and_a_better_one_is_not() -> None:
    generator = np.random.default_rng(0)
    guesses = (generator.random(400) < 0.25).astype(float)
    knows = (generator.random(400) < 0.5).astype(float)  # 12 standard errors above chance
    ones = np.ones(400)
    assert not informative(Measure("quiz", guesses, ones, 0.25 * ones, True, "%"))
    assert informative(Measure("quiz", knows, ones, 0.25 * ones, True, "%"))
    # the same answers where lower is better: a network on the wrong side of chance
    assert not informative(Measure("quiz", knows, ones, 0.25 * ones, False, "%"))


def test_chance_is_mistaken_for_knowledge_no_more_often_than_the_confidence_says() -> None:
    ones = np.ones(100)
    answers = np.random.default_rng(5).random((200, 100)) < 0.25
    mistaken = sum(
        informative(Measure("quiz", row.astype(float), ones, 0.25 * ones, True, "%"), resamples=200)
        for row in answers
    )
    assert mistaken <= 20  # 10 of 200 expected at 95 %, deviation 3.1


def test_rounding_and_single_items_are_no_information() -> None:
    assert not informative(measure(np.full(9, 3.0 - 1e-15)))
    assert not informative(measure(np.array([1.0])))
    assert informative(measure(np.array([1.0, 1.1])))


@pytest.mark.parametrize(("count", "known"), [(2, False), (3, True)])
@pytest.mark.parametrize("higher", [True, False])
def test_a_few_right_answers_are_a_guess_as_long_as_a_guess_has_as_many(
    count: int, known: bool, higher: bool
) -> None:
    # one in four: two of two right has 1/16, which is over 5 %, and three of three 1/64
    items = np.full(count, float(higher))
    chance = np.full(count, 0.25 if higher else 0.75)
    quiz = Measure("quiz", items, np.ones(count), chance, higher, "%")
    assert informative(quiz) == known
    assert chance_p(quiz) == pytest.approx(0.25**count)


def test_minimum_detectable_drop_by_hand() -> None:
    items = np.array([0.5, 1.5] * 50)  # mean 1, margin 2, sample variance 0.25 * 100 / 99
    expected = (1.6449 + 0.8416) * math.sqrt(0.25 / 99 * 2 * (1 - 0.9)) / 2
    assert minimum_detectable_drop(measure(items)) == pytest.approx(expected, rel=1e-4)
    # four times the items, half the drop
    assert minimum_detectable_drop(measure(items), items=400) == pytest.approx(expected / 2, rel=1e-4)
    assert minimum_detectable_drop(measure(np.full(4, 3.0))) == math.inf


def test_a_drop_of_the_detectable_size_is_mostly_detected() -> None:
    correlation = 1 / math.sqrt(1 + (0.1 / 0.25) ** 2)  # of simulated(): noise 0.1 on items that deviate 0.25
    planned = minimum_detectable_drop(simulated(0)[0], correlation=correlation)
    found = 0
    for seed in range(100):
        reference, candidate = simulated(seed, loss=2 * planned)  # the margin is 2
        found += upper_bound(retention_draws(reference, candidate, 200, seed), 0.95) < 1
    assert 65 <= found <= 95  # power 0.8: 80 of 100, deviation 4


@pytest.mark.parametrize(("correlation", "items"), [(1.0, None), (0.9, 0)])
def test_planning_arguments_are_checked(correlation: float, items: int | None) -> None:
    with pytest.raises(ValueError, match=r"must be (in \[-1, 1\), got 1.0|at least 1, got 0)"):
        minimum_detectable_drop(simulated(0)[0], items=items, correlation=correlation)


def test_interval_contains_the_point_estimate() -> None:
    reference, candidate = simulated(7)
    assert retention_interval(reference, candidate).point == retention(reference, candidate)


def rated(seed: int, noise: float, n: int = 300) -> tuple[Measure, Measure]:
    """Correlations of two networks whose values are known scores plus noise of their own."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=n)
    first = scores + 0.5 * generator.standard_normal(n)
    second = first + noise * generator.standard_normal(n)
    ones = np.ones(n)
    one, other = (
        Measure("similarity", x, ones, 0 * ones, True, "", "pearson", scores) for x in (first, second)
    )
    return one, other


def test_bounds_of_a_correlation_cover_the_truth_as_often_as_they_say() -> None:
    # correlations of the whole population: 1 / sqrt(1 + variance of the noise)
    truth = math.sqrt(1 + 0.5**2) / math.sqrt(1 + 0.5**2 + 0.4**2)
    covered = 0
    for seed in range(200):
        draws = retention_draws(*rated(seed, noise=0.4), resamples=400, seed=seed)
        covered += lower_bound(draws, 0.95) <= truth
    assert 181 <= covered <= 199  # 190 of 200 expected, three deviations of 3.1 either way


def test_the_standard_error_of_a_correlation_is_that_of_theory() -> None:
    reference, _ = rated(0, 0.0, n=2000)
    # normal variables: (1 - rho^2) / sqrt(n); a drop is 2.486 errors of a difference, see above
    error = (1 - reference.value**2) / math.sqrt(2000)
    expected = (1.6449 + 0.8416) * error * math.sqrt(2 * (1 - 0.9)) / reference.value
    assert minimum_detectable_drop(reference) == pytest.approx(expected, rel=0.15)  # 400 draws: 4 deviations
