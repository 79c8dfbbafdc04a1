"""Scores kept item by item, and how much of them is retained."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fulgurite.evaluation import Measure, StorageError, raw_ratio, retention


def accuracy(items: list[float], weights: list[float] | None = None, chance: float = 0.25) -> Measure:
    counts = np.ones(len(items)) if weights is None else np.array(weights)
    return Measure("quiz", np.array(items, float), counts, chance * counts, True, "%")


def bits(items: list[float], weights: list[float], chance: list[float]) -> Measure:
    arrays = (np.array(values, dtype=float) for values in (items, weights, chance))
    return Measure("bits_per_byte", *arrays, False, "bits/byte")


def test_value_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    measure = bits([10, 2], [10, 1], [30, 3])
    assert measure.value == 12 / 11  # the mean of 10/10 and 2/1 would be 1.5
    assert measure.chance == 3


def test_retention_where_higher_is_better() -> None:
    reference, candidate = accuracy([1, 1, 1, 0]), accuracy([1, 1, 0, 0])
    # (0.5 - 0.25) / (0.75 - 0.25)
    assert retention(reference, candidate) == 0.5
    assert raw_ratio(reference, candidate) == pytest.approx(2 / 3)


def test_retention_where_lower_is_better() -> None:
    reference, candidate = bits([10, 10], [10, 10], [30, 30]), bits([14, 12], [10, 10], [30, 30])
    # (1.3 - 3) / (1 - 3)
    assert retention(reference, candidate) == pytest.approx(0.85)
    assert raw_ratio(reference, candidate) == pytest.approx(1 / 1.3)


def test_retention_is_one_for_an_equal_network_and_zero_at_chance() -> None:
    # 0.1 has no exact binary form: a ratio of two differently rounded sums could miss 1
    reference = bits([0.1] * 7, [0.3] * 7, [0.7] * 7)
    assert retention(reference, reference) == 1
    assert retention(reference, bits([0.7] * 7, [0.3] * 7, [0.7] * 7)) == pytest.approx(0)


def test_guessing_keeps_most_of_a_weak_score_raw_and_nothing_corrected() -> None:
    reference, guess = accuracy([1] * 3 + [0] * 7), accuracy([0.25] * 10)  # 30 % on a four-way choice
    assert raw_ratio(reference, guess) == pytest.approx(0.25 / 0.3)
    assert retention(reference, guess) == pytest.approx(0)


def test_retention_without_a_margin_is_refused() -> None:
    level = accuracy([1, 0, 0, 0])  # exactly 1 in 4
    with pytest.raises(ValueError, match=r"quiz: reference must differ from chance, got 0\.25"):
        retention(level, level)


def test_a_diverged_network_retains_nan() -> None:
    assert math.isnan(retention(accuracy([1, 1]), accuracy([math.nan, 1])))


def test_unpaired_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the reference's 2 items, got 3"):
        retention(accuracy([1, 1]), accuracy([1, 1, 1]))
    with pytest.raises(ValueError, match="must have the reference's weights, got 1 that differ"):
        retention(accuracy([1, 1]), accuracy([1, 1], weights=[1, 2]))
    with pytest.raises(ValueError, match="paired by name and direction, got 'quiz'"):
        retention(accuracy([1, 1]), bits([1, 1], [1, 1], [2, 2]))


@pytest.mark.parametrize(
    ("items", "weights", "chance", "message"),
    [
        ([], [], [], "arrays must be"),
        ([1, 2], [1], [1, 2], "arrays must be"),
        ([[1, 2]], [[1, 2]], [[1, 2]], "arrays must be"),
        ([1, 2], [0, 0], [1, 2], "weights must be finite"),
        ([1, 2], [1, -1], [1, 2], "weights must be finite"),
        ([1, 2], [1, 1], [1, math.nan], "chance_items must be finite"),
    ],
)
def test_unusable_arrays_are_refused(items: list, weights: list, chance: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bits(items, weights, chance)


def test_a_measure_is_its_own_copy() -> None:
    items = np.ones(3)
    measure = Measure("m", items, np.ones(3), np.zeros(3), True, "%")
    items[0] = 9
    assert measure.value == 1
    with pytest.raises(ValueError, match="read-only"):
        measure.items[0] = 9


def test_json_and_file_give_the_same_measure(tmp_path: Path) -> None:
    measure = bits([1 / 3, math.nan, 2], [3, 4, 5], [9, 9, 9])
    copied = Measure.from_dict(json.loads(json.dumps(measure.to_dict(), allow_nan=False)))
    measure.save(tmp_path / "new" / "reference.npz")
    for other in (copied, Measure.load(tmp_path / "new" / "reference.npz")):
        assert (other.name, other.higher_is_better, other.unit) == ("bits_per_byte", False, "bits/byte")
        np.testing.assert_array_equal(other.items, measure.items)  # NaN equals NaN here
        np.testing.assert_array_equal(other.weights, measure.weights)
        np.testing.assert_array_equal(other.chance_items, measure.chance_items)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["reference.npz"]  # no temporary file


def test_a_file_is_compact(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 256, 10_000)
    Measure("m", counts, np.full(10_000, 256), np.full(10_000, 10), True, "%").save(tmp_path / "m.npz")
    # 10,000 items of 8 bits carry 10 kB; as JSON the three lists take over 120 kB
    assert (tmp_path / "m.npz").stat().st_size < 25_000


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.npz"
    accuracy([1, 0, 1]).save(path)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        accuracy([0, 0, 0]).save(path)
    assert Measure.load(path).items.tolist() == [1, 0, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.npz"
    accuracy([1, 0, 1]).save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StorageError, match=r"m\.npz: not a readable archive"):
        Measure.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "objects.npz", header=np.array([{}], dtype=object))  # would need pickle
    np.savez(tmp_path / "list.npz", header=np.array("[1]"))
    np.savez(tmp_path / "empty.npz", header=np.array("{}"))
    for name in ("array.npy", "objects.npz", "list.npz", "empty.npz"):
        with pytest.raises(StorageError, match=name):
            Measure.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Measure.load(tmp_path / "absent.npz")


def ranked(items: list[float], targets: list[float], statistic: str = "spearman") -> Measure:
    ones = np.ones(len(items))
    arrays = (np.array(items, float), ones, 0 * ones)
    return Measure("similarity", *arrays, True, "", statistic, np.array(targets, float))  # type: ignore[arg-type]


def test_a_correlation_is_that_of_items_and_targets() -> None:
    items, targets = [1.0, 2, 4, 3], [10.0, 20, 30, 40]
    assert ranked(items, targets).value == pytest.approx(0.8)  # 1 - 6 * (1 + 1) / (4 * 15)
    assert ranked(items, targets, "pearson").value == pytest.approx(0.8)  # here items are their own ranks
    assert ranked(items, targets).chance == 0
    assert ranked([7.0] * 4, targets).value == 0  # all the same: tells nothing


def test_retention_of_a_correlation_is_the_ratio_of_the_two() -> None:
    reference, candidate = ranked([1, 2, 3, 4], [1, 2, 3, 4]), ranked([1, 2, 4, 3], [1, 2, 3, 4])
    assert retention(reference, candidate) == pytest.approx(0.8)
    assert retention(reference, reference) == 1
    assert retention(reference, ranked([4, 3, 2, 1], [1, 2, 3, 4])) == pytest.approx(-1)
    assert math.isnan(retention(reference, ranked([1, 2, math.nan, 4], [1, 2, 3, 4])))


def test_correlations_with_other_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the reference's targets, got 1 that differ"):
        retention(ranked([1, 2, 3], [1, 2, 3]), ranked([1, 2, 3], [1, 2, 4]))
    with pytest.raises(ValueError, match="must have the reference's statistic 'spearman', got 'pearson'"):
        retention(ranked([1, 2, 3], [1, 2, 3]), ranked([1, 2, 3], [1, 2, 3], "pearson"))


@pytest.mark.parametrize(
    ("statistic", "targets", "message"),
    [
        ("kendall", None, "statistic must be one of ratio, pearson, spearman, got 'kendall'"),
        ("ratio", [1.0, 2], "statistic 'ratio' has no use for targets"),
        ("pearson", None, "statistic 'pearson' needs targets"),
        ("pearson", [1.0, math.inf], "targets must be finite"),
        ("pearson", [1.0, 2, 3], "arrays must be"),
    ],
)
def test_a_statistic_and_its_targets_must_fit(statistic: str, targets: list | None, message: str) -> None:
    given = None if targets is None else np.array(targets)
    with pytest.raises(ValueError, match=message):
        Measure("m", np.ones(2), np.ones(2), np.zeros(2), True, "", statistic, given)  # type: ignore[arg-type]


def test_a_correlation_survives_json_and_file(tmp_path: Path) -> None:
    measure = ranked([1, math.nan, 3], [3, 4, 5])
    measure.save(tmp_path / "m.npz")
    copied = Measure.from_dict(json.loads(json.dumps(measure.to_dict(), allow_nan=False)))
    for other in (copied, Measure.load(tmp_path / "m.npz")):
        assert other.statistic == "spearman"
        np.testing.assert_array_equal(other.items, measure.items)
        np.testing.assert_array_equal(other.arrays["targets"], [3, 4, 5])


def test_a_measure_from_before_there_were_correlations_is_a_ratio() -> None:
    record = {key: value for key, value in accuracy([1, 0]).to_dict().items() if key != "statistic"}
    assert Measure.from_dict(record).value == 0.5
