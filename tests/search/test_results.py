"""What a study leaves: recipes that can be run, a page, plots."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from fulgurite.search.results import count_line, format_value, short_names, write_results
from fulgurite.search.settings import SearchSettings
from fulgurite.search.study import Claimed, Study

Settings = Callable[..., SearchSettings]
Result = Callable[[Study, Claimed], None]
BITS = "cascade.stages.only.codec.bits"


def claim(study: Study) -> Claimed:
    claimed = study.claim()
    assert isinstance(claimed, Claimed), claimed
    return claimed


def test_a_front_is_written_as_recipes_with_a_page_and_plots(
    settings: Settings, study_folder: Callable[..., Path], result: Result
) -> None:
    study = Study(settings(trials=9, overrides={"cascade.retries": 0}), study_folder())
    for _ in range(6):
        result(study, claim(study))
    study.tell(claim(study), "failed", reason="exit status 1: the disk is full")
    worse = {"bytes": 9000.0, "retention": 0.1}
    study.tell(claim(study), "rejected", reason="every stage was rejected: ...", metrics=worse, missed=0.4)
    claim(study)  # runs while another worker writes
    paths = write_results(study, "fulgurite search --config search.yaml")
    drawn = {trial.params[BITS] for trial in study.trials()[:6]}
    assert len(paths) == len(
        drawn
    )  # more bits are more bytes and more quality: each width is on the front once
    assert {path.name for path in paths} == {path.name for path in (study.folder / "pareto").iterdir()}
    recipes = [yaml.safe_load(path.read_text()) for path in paths]
    bits = [recipe["cascade"]["stages"]["only"]["codec"]["init_args"]["bits"] for recipe in recipes]
    assert bits == sorted(drawn)  # fewest bytes first
    assert all(recipe["cascade"]["retries"] == 0 for recipe in recipes)
    assert "threads" not in recipes[0]["cascade"]  # of the trial's machine, not of the recipe
    assert paths[0].read_text().startswith(f"# fulgurite compress --config {paths[0]}\n# Trial ")
    page = (study.folder / "study.md").read_text()
    assert "9 trials: 6 done, 1 rejected, 1 failed, 1 running" in page
    assert "trial 6, failed: exit status 1: the disk is full" in page
    for name in ("trade", "importance", "history"):
        assert (study.folder / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(plots/{name}.png)" in page
    content = json.loads((study.folder / "study.json").read_text())
    assert [trial["state"] for trial in content["trials"]].count("done") == 6
    # more bits are the only reason for more bytes
    shares = content["importance"]["bytes"]
    assert max(shares, key=shares.__getitem__) == BITS


def test_one_objective_gives_one_recipe(settings: Settings, study_folder: Callable[..., Path]) -> None:
    study = Study(settings(objectives=["retention"]), study_folder())
    for retention in (0.5, 0.9, 0.7):
        study.tell(claim(study), "done", metrics={"bytes": 10.0, "retention": retention})
    (path,) = write_results(study, "fulgurite search")
    assert path == study.folder / "best.yaml"
    assert "# Trial 1 of the search search: 10 B, retention 90.0 %." in path.read_text()
    page = (study.folder / "study.md").read_text()
    assert "Importance of the keys: 3 finished trials" in page  # too few for an evaluator: the page says so


def test_a_search_without_a_result_says_so(settings: Settings, study_folder: Callable[..., Path]) -> None:
    study = Study(settings(), study_folder())
    study.tell(claim(study), "failed", reason="killed by SIGKILL")
    (study.folder / "pareto").mkdir()  # of an earlier call
    assert write_results(study, "fulgurite search") == []
    assert not (study.folder / "pareto").exists()
    page = (study.folder / "study.md").read_text()
    assert "No trial has a result" in page
    assert "trial 0, failed: killed by SIGKILL" in page


def test_names_are_told_as_short_as_they_differ() -> None:
    found = short_names(["cascade.stages.a.codec.bits", "cascade.stages.a.refine.steps"])
    assert list(found.values()) == ["codec.bits", "refine.steps"]
    assert short_names(["cascade.retries"]) == {"cascade.retries": "retries"}


def test_numbers_are_told_in_their_units() -> None:
    assert format_value("bytes", 118_042.0) == "118,042"
    assert format_value("retention/next_token", 0.8941) == "89.4 %"
    assert format_value("score/bits_per_byte", 1.2345678) == "1.235"
    assert count_line([]) == "no trials"
