"""Experts: read, weighed, and measured by benchmarks of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulgurite.evaluation import Gate
from fulgurite.evaluation.harness import LanguageSuite
from fulgurite.evaluation.harness.experts import Expert, ExpertMixture
from fulgurite.evaluation.measure import Measure

GOOD = {"name": "science", "weight": 0.6, "benchmark": "arc_easy"}


def choice(name: str, right: list[float], chance: float = 0.25) -> Measure:
    return Measure(name, np.array(right), np.ones(len(right)), np.full(len(right), chance), True, "%")


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "experts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_weighted_score_is_the_mixture_s_whatever_the_items() -> None:
    mixture = ExpertMixture((Expert("a", 3, "one"), Expert("b", 1, "other")))
    found = {"one": choice("one", [1, 0]), "other": choice("other", [1] * 8, chance=0.5)}
    first, second, weighted = mixture.measures(found)
    assert [first.name, second.name, weighted.name] == ["expert/a", "expert/b", "experts"]
    assert (first.value, second.value) == (0.5, 1.0)
    assert weighted.value == pytest.approx((3 * 0.5 + 1 * 1.0) / 4)  # eight items weigh a third of two
    assert weighted.chance == pytest.approx((3 * 0.25 + 1 * 0.5) / 4)


def test_an_expert_without_weight_is_scored_and_has_no_part() -> None:
    mixture = ExpertMixture((Expert("a", 1, "one"), Expert("b", 0, "other")))
    found = {"one": choice("one", [1, 0]), "other": choice("other", [1] * 8)}
    *_, weighted = mixture.measures(found)
    assert weighted.value == 0.5
    assert weighted.items.size == 2


def test_a_gate_judges_by_experts() -> None:
    mixture = ExpertMixture((Expert("a", 1, "one"), Expert("b", 1, "other")))
    before = mixture.measures(
        {"one": choice("one", [1, 1, 1, 0] * 60), "other": choice("other", [1, 0, 1, 1] * 60)}
    )
    worse = mixture.measures(
        {"one": choice("one", [1, 1, 1, 0] * 60), "other": choice("other", [0, 0, 1, 0] * 60)}
    )
    assert Gate().decide(before, before, before, stage_index=0).accepted
    verdict = Gate().decide(before, before, worse, stage_index=0)
    assert not verdict.accepted
    assert {one.name: round(one.retention or 0, 2) for one in verdict.per_measure}["expert/b"] == 0


def test_bits_and_shares_have_no_mean() -> None:
    bits = Measure("text", np.ones(3), np.ones(3), np.ones(3), False, "bits/byte")
    mixture = ExpertMixture((Expert("a", 1, "one"), Expert("b", 1, "text")))
    with pytest.raises(ValueError, match="benchmarks of one unit, got a: one in %, b: text in bits/byte"):
        mixture.measures({"one": choice("one", [1]), "text": bits})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected experts in JSON"),
        ([], r'expected {"experts": \[...\]}'),
        ({"experts": []}, "at least one"),
        (
            {"experts": [{"name": "a", "weight": 1}]},
            "expert 'a': expected a benchmark, found the fields name, weight",
        ),
        ({"experts": [{**GOOD, "benchmark": ""}]}, "expert 'science': expected a benchmark"),
        ({"experts": [{"weight": 1, "benchmark": "x"}]}, "expert 1: expected a name"),
        ({"experts": [{**GOOD, "weight": "much"}]}, "expert 'science': weight is 'much', expected a number"),
        ({"experts": [{**GOOD, "weight": -1}]}, "expert 'science': weight must be at least 0, got -1"),
        ({"experts": [{**GOOD, "weight": float("nan")}]}, "weight must be at least 0, got nan"),
        ({"experts": [{**GOOD, "weight": 0}]}, r"must not sum to 0, got \[0.0\]"),
        ({"experts": [GOOD, GOOD]}, "different names, got science, science"),
        ({"experts": ["science"]}, "expert 1: expected an object, found 'science'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        ExpertMixture.read(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.json: expected experts in JSON"):
        ExpertMixture.read(tmp_path / "none.json")


def test_experts_bring_their_benchmarks_along(
    tmp_path: Path, bench_data: Path, loaded: tuple[Any, Any]
) -> None:
    path = written(tmp_path, {"experts": [GOOD, {"name": "sense", "weight": 0.4, "benchmark": "winogrande"}]})
    suite = LanguageSuite.load([], data_dir=bench_data, limit=5, experts=path)
    result = suite.evaluate(*loaded)
    assert [measure.name for measure in result.evaluation.measures] == [
        "expert/science",
        "expert/sense",
        "experts",
    ]
    science, sense, weighted = (measure.value for measure in result.evaluation.measures)
    assert weighted == pytest.approx(0.6 * science + 0.4 * sense)


def test_an_expert_of_an_unknown_benchmark(tmp_path: Path, bench_data: Path) -> None:
    path = written(tmp_path, {"experts": [{**GOOD, "benchmark": "arc_esy"}]})
    with pytest.raises(ValueError, match="expert 'science': unknown benchmark 'arc_esy'; known are"):
        LanguageSuite.load([], data_dir=bench_data, experts=path)
