"""Results that are measured once."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from fulgurite.evaluation import Evaluation, Measure, cached_result, reference_cache_key
from fulgurite.evaluation.storage import write_arrays

KEY = reference_cache_key({"weights": "91c2", "window": 256})


class Counted:
    """A measurement that knows how often it was made."""

    def __init__(self, perplexity: float = 4.5) -> None:
        self.calls = 0
        self.perplexity = perplexity

    def __call__(self) -> Evaluation:
        self.calls += 1
        items = np.random.default_rng(0).normal(1, 0.1, 9)
        text = Measure("bits_per_byte", items, np.full(9, 4), np.full(9, 12), False, "bits/byte")
        right = Measure("next_token", np.arange(9), np.full(9, 9), np.zeros(9), True, "%")
        return Evaluation((text, right), {"perplexity": self.perplexity, "tokens": 81})


def assert_same(got: Evaluation, want: Evaluation) -> None:
    # what is not finite comes back as None
    facts = {name: value if math.isfinite(value) else None for name, value in want.facts.items()}
    assert got.facts in (facts, want.facts)
    assert [m.to_dict() for m in got.measures] == [m.to_dict() for m in want.measures]


def test_a_hit_does_not_measure_again(tmp_path: Path) -> None:
    measure = Counted()
    first = cached_result(tmp_path / "new", KEY, measure)
    second = cached_result(tmp_path / "new", KEY, measure)
    assert measure.calls == 1
    assert_same(second, first)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"{KEY}.npz"]


def test_another_key_measures_again(tmp_path: Path) -> None:
    measure = Counted()
    cached_result(tmp_path, KEY, measure)
    cached_result(tmp_path, reference_cache_key({"weights": "91c2", "window": 128}), measure)
    assert measure.calls == 2


def test_a_diverged_result_is_cached_too(tmp_path: Path) -> None:
    measure = Counted(perplexity=math.nan)
    first = cached_result(tmp_path, KEY, measure)
    assert_same(cached_result(tmp_path, KEY, measure), first)
    assert measure.calls == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "another key"])
def test_a_damaged_file_is_measured_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    measure = Counted()
    first = cached_result(tmp_path, KEY, measure)
    path = tmp_path / f"{KEY}.npz"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:60] + bytes(byte ^ 0xFF for byte in data[60:120]) + data[120:],
            "empty": b"",
            "text": b"not an archive",
            "another key": data,
        }[damage]
    )
    key = KEY
    if damage == "another key":  # a file that was renamed by hand
        key = reference_cache_key({"weights": "other"})
        path = path.rename(tmp_path / f"{key}.npz")
    with caplog.at_level(logging.WARNING, logger="fulgurite.evaluation.cache"):
        assert_same(cached_result(tmp_path, key, measure), first)
    assert measure.calls == 2
    assert "measuring again" in caplog.text
    assert path.name in caplog.text
    caplog.clear()
    cached_result(tmp_path, key, measure)  # the file was replaced by a good one
    assert measure.calls == 2
    assert not caplog.text


def test_a_file_from_before_there_were_correlations_is_read(tmp_path: Path) -> None:
    want = Counted()()
    described = [
        {"name": m.name, "higher_is_better": m.higher_is_better, "unit": m.unit} for m in want.measures
    ]
    header = {"format": 1, "key": KEY, "facts": dict(want.facts), "measures": described}
    arrays = {
        f"{index}/{field}": array
        for index, m in enumerate(want.measures)
        for field, array in m.arrays.items()
    }
    write_arrays(tmp_path / f"{KEY}.npz", header, arrays)
    measure = Counted()
    assert_same(cached_result(tmp_path, KEY, measure), want)
    assert measure.calls == 0


def test_a_correlation_is_kept_with_its_targets(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    items, scores = rng.normal(size=20), rng.normal(size=20)
    ranked = Measure("spearman", items, np.ones(20), np.zeros(20), True, "", "spearman", scores)
    plain = Measure("fidelity", items, np.ones(20), np.zeros(20), True, "")
    want = Evaluation((ranked, plain), {"pearson": 0.5})
    want.save(tmp_path / "scores.npz")
    assert_same(Evaluation.load(tmp_path / "scores.npz"), want)


def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    measure = Counted()
    with caplog.at_level(logging.WARNING, logger="fulgurite.evaluation.cache"):
        assert cached_result(tmp_path / "file", KEY, measure).facts["tokens"] == 81
    assert "not cached" in caplog.text


def test_keys_follow_the_parts_and_not_their_order() -> None:
    key = reference_cache_key({"a": 1, "b": "x", "c": 0.5})
    assert key == reference_cache_key({"c": 0.5, "b": "x", "a": 1})
    assert len(key) == 64
    others = [{"a": 1, "b": "x"}, {"a": 2, "b": "x", "c": 0.5}, {"a": "1", "b": "x", "c": 0.5}]
    assert len({key, *(reference_cache_key(parts) for parts in others)}) == 4


def test_unusable_parts_and_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts must name what the result depends on"):
        reference_cache_key({})
    with pytest.raises(ValueError, match="parts must be finite"):
        reference_cache_key({"a": math.nan})
    with pytest.raises(ValueError, match=r"64 hexadecimal digits, got '\.\./escape'"):
        cached_result(tmp_path, "../escape", Counted())
