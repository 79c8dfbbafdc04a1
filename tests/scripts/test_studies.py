"""The scripts behind the pages on extreme compression and on Grokfast: what they say follows from the numbers."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import Float16Codec

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_name_stages_that_their_recipes_have() -> None:
    for row in script("extreme_compression").ROWS:
        recipe = yaml.safe_load((SCRIPTS.parent / f"configs/recipes/{row.recipe}.yaml").read_text())
        stages = row.keep or list(recipe["cascade"]["stages"])
        assert set(stages) <= set(recipe["cascade"]["stages"]), row.name
        for key in (row.seed, *row.overrides):
            assert key == "seed_everything" or key.split(".")[2] in stages, (row.name, key)


def test_a_point_is_what_the_runs_of_a_stage_have_in_common(tmp_path: Path) -> None:
    study = script("extreme_compression")
    folders = []
    for seed, (size, value) in enumerate([(1000, 0.6), (1100, 0.7), (900, 0.8)]):
        folder = tmp_path / f"run-{seed}"
        measure = {
            "name": "last_word",
            "value": value,
            "reference": 0.8,
            "retention": value,
            "raw_ratio": value / 0.8,
        }
        stages = [
            {"name": name, "accepted": name != "lost", "tries": [attempt]}
            for name, scale in (("first", 4), ("lost", 2), ("second", 1))
            for attempt in [{"number": 1, "num_bytes": size * scale, "gate": {"per_measure": [measure]}}]
        ]
        weight = Float16Codec().encode(torch.ones(6, 4))
        for stage in ("first", "lost", "second"):
            write_artifact(folder / f"stages/{stage}/try-1/artifact", {"weight": weight}, model_class="Net")
        record = {"stages": stages, "reference": {"num_bytes": 44_000}}
        (folder / "record.json").write_text(json.dumps(record))
        folders.append(folder)
    row = study.ROWS[0]
    (last,) = study.points(row, folders)
    assert (last.what, last.seeds, last.weights, last.num_bytes, last.ratio) == (row.what, 3, 24, 1100, 40.0)
    every = study.points(row, folders, all_stages=True)
    assert [point.num_bytes for point in every] == [4400, 2200, 1100]
    assert [point.what.partition("(")[2] for point in every] == ["", "turned down by the gate in 3 of 3)", ""]
    told = study.line(last, tmp_path, None)
    assert told["last word"] == "70.0 ± 24.8 of 80.0: raw 87.5 ± 31.1 %, corrected 70.0 ± 24.8 %"
    study.draw({"some": study.points(row, folders, all_stages=True)}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_an_interval_over_three_seeds_is_students() -> None:
    # mean 2, standard deviation 1, t 4.303, over the root of 3
    assert script("extreme_compression").interval([1.0, 2.0, 3.0]) == "2.0 ± 2.5"
    assert script("extreme_compression").interval([2.0]) == "2.0"


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([-0.10, -0.11, -0.09], "-0.1000 ± 0.0248: better"),
        ([0.10, 0.11, 0.09], "+0.1000 ± 0.0248: worse"),
        ([0.1, -0.1, 0.05], "not told apart"),
    ],
)
def test_a_filter_is_better_only_where_the_interval_says_so(pairs: list[float], verdict: str) -> None:
    assert script("grokfast_study").difference(pairs).endswith(verdict)


def test_the_page_claims_no_more_than_its_lines() -> None:
    study = script("grokfast_study")
    plain, worse = {0: 0.10, 1: 0.12, 2: 0.11}, {0: 0.20, 1: 0.22, 2: 0.215}
    results = {"none": plain, "EMA 0.98, lamb 2": worse, "control, steps 3x": {0: 0.05, 1: 0.07, 2: 0.06}}
    text = study.page({"refinement": study.lines_of(results)}, 200, "a command")
    assert "better than none: not one; better than its control: not one" in text  # the control is no filter
    better = {"none": plain, "EMA 0.98, lamb 2": {0: 0.05, 1: 0.07, 2: 0.06}}
    for controlled, claim in (
        ({0: 0.02, 1: 0.03, 2: 0.02}, "not one"),
        (plain, "EMA 0.98, lamb 2 in refinement"),
    ):
        lines = study.lines_of({**better, "control, steps 3x": controlled})
        told = study.page({"refinement": lines}, 200, "a command")
        assert f"better than none: EMA 0.98, lamb 2 in refinement; better than its control: {claim}." in told


@pytest.mark.parametrize("arm", ["none", "EMA 0.98, lamb 2", "control, steps 3x"])
def test_every_arm_is_a_stage(arm: str) -> None:
    study = script("grokfast_study")
    refinement, distillation = (study.stage_of(task, arm, 3, 40) for task in study.TASKS)
    assert refinement["refine"]["seed"] == distillation["init_args"]["seed"] == 3
    assert (
        ("grokfast" in refinement["refine"]) == (arm != "none") == ("grokfast" in distillation["init_args"])
    )
