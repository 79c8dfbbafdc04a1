"""Search files: what they say, and what is wrong with others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulgurite.search.settings import Objective, SearchSettings, read_search
from fulgurite.search.space import Dimension

Settings = Callable[..., SearchSettings]


def test_a_search_is_read(settings: Settings, tmp_path: Path) -> None:
    found = settings(early={"min_retention": 0.4}, early_stopping={"patience": 3}, sampler={"type": "nsga2"})
    assert found.name == "search"  # of the file
    assert found.recipe == tmp_path / "recipe.yaml"  # beside it
    assert found.objectives == (Objective("bytes", "minimize"), Objective("retention", "maximize"))
    assert [dimension.key.rpartition(".")[2] for dimension in found.space] == ["bits", "learning_rate"]
    assert (found.early.min_retention, found.patience, found.sampler["type"]) == (0.4, 3, "nsga2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 3}, "unknown key trails; near: trials"),
        ({"recipe": "missing.yaml"}, "recipe missing.yaml: no such file"),
        ({"space": None}, "must have the key 'space'"),
        ({"space": {}}, "space must map keys"),
        (
            {"space": {"a": {"type": "flaot", "low": 0, "high": 1}}},
            "space.a: type must be float, int.*'flaot'",
        ),
        (
            {"space": {"a": {"type": "int", "low": 3, "high": 1}}},
            "space.a: low must be at most high, got 3 and 1",
        ),
        (
            {"space": {"a": {"type": "int", "low": 0.5, "high": 1}}},
            "space.a: low must be a whole number, got 0.5",
        ),
        ({"space": {"a": {"type": "float", "low": 1}}}, "space.a: high must be a number, got None"),
        (
            {"space": {"a": {"type": "float", "low": 0, "high": 1, "log": True}}},
            "space.a: log needs low above 0",
        ),
        ({"space": {"a": {"type": "bool", "low": 0}}}, "space.a: a bool takes none, got low"),
        ({"space": {"a": {"choices": [1, 1]}}}, "space.a: choices must be a list of different values"),
        ({"space": {"a": 3}}, "space.a must be a mapping"),
        ({"objectives": []}, "objectives must be a list"),
        ({"objectives": ["byte"]}, "no metric 'byte'; near: bytes"),
        (
            {"objectives": ["score/acc"]},
            "objective score/acc: direction must be minimize or maximize, got None",
        ),
        ({"objectives": ["bytes", "bytes"]}, "objectives must differ"),
        ({"sampler": "tpa"}, "sampler.type must be one of tpe, random, grid, nsga2, got 'tpa'"),
        ({"pruner": "median"}, "pruner median works on one objective, got 2"),
        ({"early": {"min_retention": 1.5}}, "early.min_retention must be in"),
        ({"early": {"windows": 4}}, "unknown key early.windows; near: limit_windows"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience must be at least 1, got 0"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"trials": "many"}, "trials must be a number, got 'many'"),
        (
            {"overrides": {"cascade.stages.only.codec.bits": 3}},
            "overrides sets .*bits, which is in space too",
        ),
    ],
)
def test_what_cannot_be_is_named(settings: Settings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"search.yaml: .*{message}"):
        settings(**changes)


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\xff"])
def test_a_file_that_is_no_search_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="search.yaml: expected a search"):
        read_search(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.yaml: no such search"):
        read_search(tmp_path / "none.yaml")


def test_a_range_has_the_points_of_its_grid() -> None:
    assert Dimension("a", "int", 2, 8, 3).grid() == [2, 5, 8]
    assert Dimension("a", "float", 0.5, 1.7, 0.5).grid() == [0.5, 1.0, 1.5]  # 2.0 is outside
    assert Dimension("a", "bool").grid() == [False, True]
    with pytest.raises(ValueError, match="space.a: the grid sampler needs a step"):
        Dimension("a", "float", 0, 1).grid()
