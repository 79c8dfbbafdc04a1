"""The keys of a search are held against the real parser before any trial."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
STAGE = "cascade.stages.ecq"
ONE: dict[str, Any] = {"type": "int", "low": 1, "high": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {f"{STAGE}.codec.sates": ONE}},
            rf"has no key {STAGE}.codec.sates; near: {STAGE}.codec.states",
        ),
        (
            {"space": {"cascade.stages.ecg.refine.steps": ONE}},
            rf"has no key .*ecg.*near: {STAGE}.refine.steps",
        ),
        (
            {"overrides": {"cascade.retires": 1}},
            "overrides: .*has no key cascade.retires; near: cascade.retries",
        ),
        ({"space": {f"{STAGE}.refine.steps": {"choices": ["many"]}}}, "refine.*must be of type int|many"),
        (
            {"space": {f"{STAGE}.metric": {"choices": ["kl", "L2"]}}},
            rf"space.{STAGE}.metric, value 'L2'",
        ),
        ({"overrides": {"cascade.gate.floor": 0.0}}, r"overrides.*floor must be in \(0, 1\], got 0.0"),
        ({"space": {f"{STAGE}.refine.steps.more": ONE}}, rf"has no key {STAGE}.refine.steps.more"),
        # not set in the recipe: what may stand there, only the parser knows
        ({"space": {"cascade.time_budget_minutes.more": ONE}}, "time_budget_minutes"),
    ],
)
def test_a_key_that_the_recipe_does_not_have_ends_the_search_before_any_trial(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = {
        "recipe": str(REPOSITORY / "configs" / "recipes" / "stories260k_budget.yaml"),
        "space": {f"{STAGE}.refine.steps": ONE},
        "objectives": ["bytes"],
        **changes,
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    study = tmp_path / "study"
    assert main(["search", "--config", str(tmp_path / "search.yaml"), "--output_dir", str(study)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1  # one sentence
    assert re.search(message, error), error
    assert not study.exists()


def test_a_recipe_without_stages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = REPOSITORY / "configs" / "recipes" / "quickstart_fit.yaml"
    search = {"recipe": str(recipe), "space": {"model.init_args.learning_rate": ONE}, "objectives": ["bytes"]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    assert main(["search", "--config", str(tmp_path / "search.yaml")]) == 2
    assert "expected a recipe of fulgurite compress" in capsys.readouterr().err
