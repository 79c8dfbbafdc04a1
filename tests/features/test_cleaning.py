"""What goes out of a table, and why."""

import numpy as np
import pytest

from fulgurite.features.cleaning import Cleaning, CleaningSettings, clean


def _columns(rows: int = 500) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, rows))
    holes, few = random.normal(size=(2, rows))
    holes[: rows // 2] = np.nan
    few[:5] = np.inf
    return {
        "first": first,
        "constant": np.full(rows, 3.0),
        "holes": holes,
        "copy": first.copy(),
        "turned": -2 * first + 1e-4 * second,
        "second": second,
        "few": few,
    }


def _clean(columns: dict[str, np.ndarray], **settings: float) -> Cleaning:
    values = np.stack(list(columns.values()), 1).astype(np.float32)
    return clean(list(columns), np.array_split(values, 3), CleaningSettings(**settings))  # type: ignore[arg-type]


def test_every_kind_of_useless_feature_goes_with_its_reason() -> None:
    found = _clean(_columns())
    assert [list(_columns())[place] for place in found.kept] == ["first", "second", "few"]
    assert found.dropped["constant"].startswith("constant: 3")
    assert found.dropped["holes"].startswith("missing: 50.0 %")
    assert found.dropped["copy"] == "duplicate of first"
    assert found.dropped["turned"].startswith("collinear with first")


def test_infinite_values_are_missing_and_counted() -> None:
    assert _clean(_columns()).missing == 5


def test_the_sample_is_standardised() -> None:
    sample = _clean(_columns()).sample
    np.testing.assert_allclose(sample.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(sample.std(0), 1, rtol=1e-5)


def test_wild_values_are_cut_off_and_do_not_set_the_scale() -> None:
    columns = {"x": np.random.default_rng(1).normal(size=5000)}
    columns["x"][7] = 1e6
    found = _clean(columns)
    assert found.outliers == 1
    assert found.scale[0] == pytest.approx(1, rel=0.05)  # of a Gaussian, whatever the one value is
    assert found.high[0] < 20  # about 10 deviations


def test_a_feature_that_is_mostly_zero_keeps_its_tail() -> None:
    values = np.zeros(2000)
    values[::50] = np.arange(40) + 1  # 2 % of the rows: the quartiles are 0
    found = _clean({"sparse": values})
    assert found.high[0] > 38  # all but the last of 40
    assert found.outliers <= 2


@pytest.mark.parametrize("blocks", [1, 4])
def test_what_is_found_does_not_depend_on_the_blocks(blocks: int) -> None:
    values = np.random.default_rng(2).normal(size=(400, 5)).astype(np.float32)
    found = clean(list("abcde"), np.array_split(values, blocks), CleaningSettings(sample_rows=50))
    again = clean(list("abcde"), np.array_split(values, 7), CleaningSettings(sample_rows=50))
    assert len(found.sample) == 50
    assert np.array_equal(found.mean, again.mean)


def test_no_usable_feature_left_says_why() -> None:
    columns = {"one": np.zeros(10), "two": np.full(10, np.nan)}
    with pytest.raises(ValueError, match="no usable feature is left of 2: 1 constant, 1 missing"):
        _clean(columns)


def test_a_single_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows to learn from, found 1"):
        _clean({"x": np.ones(1)})


@pytest.mark.parametrize("setting", [{"max_missing": 0}, {"max_correlation": 2}, {"outlier_deviations": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        CleaningSettings(**setting)  # type: ignore[arg-type]
