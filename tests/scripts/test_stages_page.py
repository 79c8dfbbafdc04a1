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
    joint = [one for one in techniques if one.joint]
    assert {codec_of(one) for one in joint if not one.before} == {"sparse", "low_rank", "low_rank_plus"}
    # attention's products are brought to low rank before it
    assert {codec_of(one) for one in joint if one.before} == {"ecq"}
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
    assert "Of the 0 places below" in page.default({"A": rows})


def test_the_default_is_told_to_be_behind_where_it_is(module: Module) -> None:
    page = module("stages.page")
    found = {
        "A": {8: rows_of(module, ecq=0.85, prune=0.4), 16: rows_of(module, ecq=0.5, prune=0.7)},
        "B": {8: rows_of(module, ecq=0.85, prune=0.8525)},
    }
    said = page.default(found)
    assert "Of the 3 places below where anything is above chance it keeps most in 1" in said
    assert "not apart from the best in 1 (B at 8x, *prune*, +0.4" in said  # 0.0025 / 0.65
    assert "behind in 1 (A at 16x, *prune*, +30.8" in said  # 0.2 / 0.65
    assert "*ecq* in 2; the next, *prune*, in 2. So the presets keep it." in said


def test_each_ratio_has_its_own_best(module: Module) -> None:
    page = module("stages.page")
    found = {
        name: {8: rows_of(module, ecq=0.85, prune=0.4), 32: rows_of(module, ecq=0.4, prune=0.7)}
        for name in "AB"
    }
    assert "at 8x *ecq* in 2 of 2; at 32x *prune* in 2 of 2" in page.by_ratio(found)


def test_another_default_is_asked_for_where_one_is_ahead_more_often(module: Module) -> None:
    found = {"A": {ratio: rows_of(module, ecq=0.5, prune=0.7) for ratio in (8, 16)}}
    assert "*prune*, in 2. The presets should take it." in module("stages.page").default(found)


def test_a_row_without_a_number_is_last(module: Module) -> None:
    rows = rows_of(module, ecq=0.5, prune=0.4)
    lost = replace(rows[0], name="lost", scores={"quiz": measure(np.full(400, np.nan))})
    ranked = module("stages.results").ranked([lost, *rows])
    assert [row.name for row in ranked] == ["ecq", "prune", "lost"]
    assert module("stages.page").percent(ranked[-1].kept) == "no number"


@pytest.mark.slow
def test_runs_are_made_once_and_the_page_tells_what_was_too_much(
    module: Module,
    trained_network: Path,
    small_data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, results, script = module("stages.techniques"), module("stages.results"), module("stages_page")
    model = {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(trained_network)}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": model, "data": small_data, "cascade": {}}))
    # 8 times 48 kB: 53 thousand weights have room at 48 and 24 kB, and at 12 kB no uniform code fits with its manifest
    network = known.Network(
        "tiny", "Tiny", "A test.", "tiny", 384_000, techniques=("uniform",), shown=("next_token",)
    )
    (technique,) = network.compared
    recipe = known.recipe_of(network, technique, tmp_path, tmp_path, tmp_path)
    recipe["cascade"] |= {"limit_windows": 60, "cache_dir": str(tmp_path / "cache")}
    runs = tmp_path / "runs"
    results.run(runs, "tiny_uniform", recipe)
    log = (runs / "tiny_uniform.txt").read_bytes()
    results.run(runs, "tiny_uniform", recipe)
    assert (runs / "tiny_uniform.txt").read_bytes() == log  # no second process
    assert results.out_of_reach(runs, "tiny_uniform", recipe).startswith(
        "a budget of 12,000 bytes cannot be met"
    )
    rows = results.read_rows(runs, network)
    assert [len(each) for each in rows.values()] == [1, 1, 0]
    assert rows[8][0].num_bytes <= 48_000
    assert rows[16][0].num_bytes <= 24_000
    assert rows[8][0].kept.point > rows[16][0].kept.point

    monkeypatch.setattr(script, "NETWORKS", [network])
    monkeypatch.setattr(script, "RECIPES", tmp_path)
    assert script.write(runs, tmp_path, tmp_path / "stages.md") == 0
    text = (tmp_path / "stages.md").read_text()
    assert "| 16x | uniform |" in text
    assert "At 8x *uniform* keeps most" in text
    assert (tmp_path / "stages_ratio.png").stat().st_size > 10_000


def test_without_runs_there_is_no_page(
    module: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = module("stages_page")
    status = script.main(
        ["--data", "data", "--runs", str(tmp_path), "--output", str(tmp_path / "p.md"), "--page"]
    )
    assert status == 1
    assert "must hold runs to write a page of, holds none" in capsys.readouterr().err
    assert not (tmp_path / "p.md").exists()
