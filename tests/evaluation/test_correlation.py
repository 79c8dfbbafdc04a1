"""Correlations over resamples are those of the items that were drawn."""

import numpy as np
import pytest

from fulgurite.evaluation.correlation import midranks, pearson, spearman


def drawn(n: int, resamples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, (resamples, n))


def counts_of(rows: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(row, minlength=rows.shape[1]) for row in rows]).astype(float)


def plain_ranks(values: np.ndarray) -> np.ndarray:
    """Mean place of each value among all, from 1: by comparing each with each."""
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below + (equal + 1) / 2


def values_with_ties(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    values = generator.normal(size=n)
    return values, np.round(values + generator.normal(size=n))  # whole numbers: many are equal


def test_a_resample_correlates_as_if_its_items_were_written_out() -> None:
    values, targets = values_with_ties(40)
    rows = drawn(40, 30)
    found = pearson(values, targets, counts_of(rows))
    np.testing.assert_allclose(found, [np.corrcoef(values[row], targets[row])[0, 1] for row in rows])
    found = spearman(values, targets, counts_of(rows))
    wanted = [np.corrcoef(plain_ranks(values[row]), plain_ranks(targets[row]))[0, 1] for row in rows]
    np.testing.assert_allclose(found, wanted)


def test_ranks_are_those_of_the_drawn_items() -> None:
    _, values = values_with_ties(25)
    rows = drawn(25, 10)
    for row, ranks in zip(rows, midranks(values, counts_of(rows)), strict=True):
        np.testing.assert_array_equal(ranks[row], plain_ranks(values[row]))


def test_spearman_sees_only_the_order() -> None:
    values, targets = values_with_ties(60)
    counts = np.ones((1, 60))
    base = spearman(values, targets, counts)
    assert spearman(np.exp(3 * values), targets, counts) == pytest.approx(base)
    assert spearman(-values, targets, counts) == pytest.approx(-base)
    assert pearson(5 * values - 2, targets, counts) == pytest.approx(pearson(values, targets, counts))


def test_equal_values_tell_nothing_and_no_number_gives_none() -> None:
    _, targets = values_with_ties(9)
    counts = np.ones((2, 9))
    for correlate in (pearson, spearman):
        assert correlate(np.full(9, 0.1), targets, counts).tolist() == [0, 0]  # 0.1: its mean is rounded
        assert correlate(targets, np.full(9, 1e9), counts).tolist() == [0, 0]
        broken = targets.copy()
        broken[4] = np.inf
        assert np.isnan(correlate(broken, targets, counts)).all()


def test_a_resample_of_one_item_over_and_over_is_no_correlation() -> None:
    counts = np.array([[3.0, 0, 0]])
    assert spearman(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]), counts).tolist() == [0]
