"""What is learned of a table is kept, and new rows are treated alike."""

from pathlib import Path

import numpy as np
import pytest

from fulgurite.features.preparation import Preparation, Split, prepare
from fulgurite.features.tables import open_table


@pytest.fixture
def learned(tmp_path: Path) -> Preparation:
    values = np.random.default_rng(0).normal(3, 2, size=(600, 6)).astype(np.float32)
    values[:, 2] = 1
    np.savez(tmp_path / "t.npz", a=values)
    return prepare(open_table(str(tmp_path / "t.npz")), categories={"low": "a.[01]", "high": "a.*"})


def test_it_comes_back_from_its_file(learned: Preparation, tmp_path: Path) -> None:
    learned.write(tmp_path / "p.json")
    assert Preparation.read(tmp_path / "p.json") == learned
    assert learned.categories == {"low": [0, 1], "high": [2, 3, 4]}
    assert learned.report["dropped"] == {"a.2": "constant: 1"}


def test_new_rows_are_taken_by_name(learned: Preparation) -> None:
    rows = np.random.default_rng(1).normal(3, 2, size=(5, 6)).astype(np.float32)
    order = [5, 0, 3, 2, 1, 4]
    turned = learned.apply(rows[:, order], [learned.columns[place] for place in order])
    assert np.array_equal(turned, learned.apply(rows))
    np.testing.assert_allclose(learned.restore(turned), rows[:, [0, 1, 3, 4, 5]], rtol=1e-4)


def test_missing_values_become_the_mean_and_wild_ones_the_limit(learned: Preparation) -> None:
    rows = np.full((2, 6), np.nan, np.float32)
    rows[1] = 1e9
    found = learned.apply(rows)
    assert np.abs(found[0]).max() == 0
    assert found[1].max() < 20  # 10 deviations


def test_a_feature_that_is_not_there_is_named(learned: Preparation) -> None:
    with pytest.raises(ValueError, match="1 are not there: a.5"):
        learned.apply(np.zeros((1, 5), np.float32), learned.columns[:5])


def test_a_category_that_was_never_seen_is_refused(learned: Preparation) -> None:
    with pytest.raises(
        ValueError, match="category 'colour' was never seen; those that were learned are low, high"
    ):
        learned.check_categories(["low", "colour"])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match="p.json: expected what a table's preparation has found"):
        Preparation.read(tmp_path / "p.json")


def test_a_rows_part_follows_from_its_place_alone() -> None:
    split = Split(0.1, 0.2, seed=3)
    whole = split.of(0, 10_000)
    assert np.array_equal(whole[4000:], split.of(4000, 6000))
    shares = np.bincount(whole) / len(whole)
    # three deviations of a binomial share of 10,000 rows are 0.012
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.012)
    assert not np.array_equal(whole, Split(0.1, 0.2, seed=4).of(0, 10_000))


def test_a_split_must_leave_rows_to_train_on() -> None:
    with pytest.raises(ValueError, match="leave rows to train on"):
        Split(0.5, 0.5)


def test_statistics_are_of_train_rows_alone(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    held = Split().of(0, 1000) != 0
    np.savez(tmp_path / "t.npz", a=np.where(held[:, None], 500, values).astype(np.float32))
    assert max(map(abs, prepare(open_table(str(tmp_path / "t.npz"))).mean)) < 0.2
