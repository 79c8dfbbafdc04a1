"""The page on techniques at equal bytes: its recipes are what the command takes, and its words follow from scores."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from callbacks.cascade import Cascade
from fulgurite.cli.lightning_cli import FulguriteCLI, make_cli
from fulgurite.codecs import CODECS
from fulgurite.evaluation.measure import Measure

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
RECIPES = SCRIPTS.parent / "configs" / "recipes"

Module = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    """Modules of ``scripts``, which is no package."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def cascade_of(recipe: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cascade:
    """The cascade that the command makes of a recipe, with the run itself left out."""
    monkeypatch.setattr(FulguriteCLI, "_run_subcommand", lambda self, verb: None)
    monkeypatch.delenv("FULGURITE_OUTPUT_DIR", raising=False)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    cli = make_cli("compress", ["--config", str(path), "--trainer.logger", "false"], folder)
    callbacks: Any = cli.trainer
    return next(callback for callback in callbacks.callbacks if isinstance(callback, Cascade))


def codec_of(technique: Any) -> str:
    """Name of the codec that a technique's recipe names by its class."""
    return next(name for name, codec in CODECS.items() if codec.__name__ == technique.codec["class_path"])


def measure(scores: np.ndarray[Any, Any]) -> Measure:
    """Answers with chance at 0.25."""
    ones = np.ones_like(scores)
    return Measure("quiz", scores, ones, 0.25 * ones, True, "%")


def rows_of(module: Module, **shares: float) -> list[Any]:
    """Rows of networks that answer such shares of 400 questions, from the first on; the reference answers 90 %."""
    results = module("stages.results")
    answered = {name: measure((np.arange(400) < 400 * share).astype(float)) for name, share in shares.items()}
    reference = {"quiz": measure((np.arange(400) < 360).astype(float))}
    rows = [results.Row(name, 100, {"quiz": one}, reference, 1.0) for name, one in answered.items()]
    return list(results.ranked(rows))


def test_the_command_takes_every_technique(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = module("stages.techniques")
    network = known.NETWORKS[0]
    recipe = known.recipe_of(network, known.TECHNIQUES[0], RECIPES, tmp_path, tmp_path)
    # all in one recipe: to parse one takes a second
    recipe["cascade"]["stages"] = {
        technique.key: known.stage_of(network, technique, 16) for technique in known.TECHNIQUES
    }
    cascade = cascade_of(recipe, tmp_path, monkeypatch)
    for technique in known.TECHNIQUES:
        stage = cascade.stages[technique.key]
        assert stage.allocate is not None
        ladder = stage.allocate.ladder(stage.codec)
        assert {codec.name for codec in ladder} <= {codec_of(technique), "fp16"}
        assert len(ladder) >= 6  # enough to meet a limit
        assert (stage.metric, stage.source) == ("kl", "reference")
        assert stage.allocate.target().num_bytes == 65_008  # 1,040,128 bytes in fp32 over 16


def test_every_run_has_a_stage_for_each_ratio_and_lets_all_be_measured(
    module: Module, tmp_path: Path
) -> None:
    known = module("stages.techniques")
    for network in known.NETWORKS:
        recipe = known.recipe_of(network, network.compared[0], RECIPES, tmp_path, tmp_path)
        assert recipe["cascade"]["retries"] == 0
        assert recipe["cascade"]["gate"]["cumulative"] < 0.001
        limits = [stage["allocate"] for stage in recipe["cascade"]["stages"].values()]
        assert list(recipe["cascade"]["stages"]) == ["x8", "x16", "x32"]
        if network.num_bytes is None:
            assert [each["bits_per_weight"] for each in limits] == [4, 2, 1]  # of the 32 of fp32
        else:
            assert [each["budget"] * ratio for each, ratio in zip(limits, (8, 16, 32), strict=True)] == [
                pytest.approx(network.num_bytes, rel=1e-4)
            ] * 3


def test_techniques_cover_the_three_alone_and_joint(module: Module) -> None:
    techniques = module("stages.techniques").TECHNIQUES
    assert {codec_of(one) for one in techniques} <= set(CODECS)
    assert {codec_of(one) for one in techniques if not one.joint} == {"sparse", "low_rank", "uniform", "ecq"}
    assert {codec_of(one) for one in techniques if one.joint} == {"sparse", "low_rank", "low_rank_plus"}
    assert len({one.key for one in techniques}) == len({one.title for one in techniques}) == len(techniques)


def test_kept_is_what_is_left_above_chance(module: Module) -> None:
    (row,) = rows_of(module, ecq=0.575)
    assert row.kept.point == pytest.approx(0.5)  # (0.575 - 0.25) / (0.9 - 0.25)
    assert row.kept.low < 0.5 < row.kept.high
    assert row.over(row).low == row.over(row).high == 0


def test_a_clear_winner_is_told_to_be_apart(module: Module) -> None:
    rows = rows_of(module, ecq=0.85, prune=0.4)
    (said,) = module("stages.page").sentences({8: rows})
    assert said.startswith("At 8x *ecq* keeps most, 92.3 %")  # (0.85 - 0.25) / 0.65
    assert "over *prune*, so the two are apart." in said


def test_a_tie_is_told_as_one_with_the_next_that_is_behind(module: Module) -> None:
    rows = rows_of(module, ecq=0.85, plus=0.8475, prune=0.4)  # one answer of 400 is no difference
    (said,) = module("stages.page").sentences({8: rows})
    assert "not apart from *plus*" in said
    assert "the next that is: *prune*" in said


def test_below_chance_nobody_wins(module: Module) -> None:
    page = module("stages.page")
    rows = {32: rows_of(module, ecq=0.1, prune=0.05)}
    assert page.sentences(rows)[0].startswith("At 32x nothing is better than chance; *ecq* comes nearest")
    assert "0 of 0 places" in page.default({"A": rows})


def test_the_default_is_told_to_be_behind_where_it_is(module: Module) -> None:
    page = module("stages.page")
    found = {
        "A": {8: rows_of(module, ecq=0.85, prune=0.4), 16: rows_of(module, ecq=0.5, prune=0.7)},
        "B": {8: rows_of(module, ecq=0.85, prune=0.8525)},
    }
    said = page.default(found)
    assert "*ecq* keeps most in 1 of 3 places" in said
    assert "not apart from the best in 1 more (*prune* on B at 8x)" in said
    assert "behind in 1: *prune* on A at 16x by +30.8" in said  # 0.2 / 0.65


def test_a_row_without_a_number_is_last(module: Module) -> None:
    rows = rows_of(module, ecq=0.5, prune=0.4)
    lost = replace(rows[0], name="lost", scores={"quiz": measure(np.full(400, np.nan))})
    ranked = module("stages.results").ranked([lost, *rows])
    assert [row.name for row in ranked] == ["ecq", "prune", "lost"]
    assert module("stages.page").percent(ranked[-1].kept) == "no number"
