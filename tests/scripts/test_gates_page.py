"""The page on gates says what simulation and records say, and its simulation plants what it says."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(kind: str, needed: float, kept: object, rejected: float, seen: float = 1.0) -> dict[str, object]:
    return {
        "kind": kind,
        "needed": needed,
        "kept": kept,
        "runs": 40,
        "rejected": rejected,
        "items_seen": seen,
    }


def written(folder: Path, rows: list[dict[str, object]]) -> str:
    settings = {"windows": 256, "population": 1024, "changed": 0.05, "resamples": 500}
    for file in folder.glob("simulation/*.json"):
        file.unlink()
    (folder / "simulation").mkdir(exist_ok=True)
    for place, each in enumerate(rows):
        content = {"settings": settings, "row": each, "seconds": 30.0}
        (folder / "simulation" / f"{place}.json").write_text(json.dumps(content))
    text: str = script("gates_page").page(folder)
    return text


def test_goals_are_judged_by_the_numbers(tmp_path: Path) -> None:
    good = [row("text, looks", 0.98, 1.0, 0.01, 0.25), row("text", 0.98, 0.96, 0.97)]
    assert "All are met." in written(tmp_path, good)
    assert "Not all are met." in written(tmp_path, [*good, row("benchmarks, full", 0.98, 1.0, 0.06)])
    assert "Not all are met." in written(tmp_path, [*good, row("text", 0.9, 0.8, 0.94)])
    assert "Not all are met." in written(tmp_path, [*good, row("text, looks", 0.9, 0.8, 1.0, 0.6)])
    # the earlier rule is shown, and is not what the goals are about
    assert "All are met." in written(tmp_path, [*good, row("benchmarks, full, earlier rule", 0.98, 1.0, 0.5)])


def test_a_benchmark_that_hides_its_collapse_is_named(tmp_path: Path) -> None:
    rows = [row("text, looks", 0.98, 1.0, 0.0, 0.25), row("text", 0.98, 0.96, 1.0)]
    rows += [
        row("benchmarks, slices", 0.9, {name: 0.6}, share) for name, share in (("mmlu", 1.0), ("gsm8k", 0.4))
    ]
    assert "in 95 % of runs: gsm8k. Not simulated" in written(tmp_path, rows)


def test_a_share_of_rejections_is_held_against_the_noise_of_so_many_runs(tmp_path: Path) -> None:
    # one row of 40 runs: the binomial's central 95 % at 0.95 is 35 to 40 of them
    within = " ".join(written(tmp_path, [row("text", 0.98, 0.98, 0.925)]).split())
    assert "87.5 % to 100.0 % of 40 runs" in within
    assert "all lie within, so what differs from 95 % is no more than the noise" in within
    outside = " ".join(written(tmp_path, [row("text", 0.98, 0.98, 0.8)]).split())
    assert "outside, so that it is no noise of the simulation: text needing 98 % (80.0 % of 40)" in outside
    assert "Where exactly what is allowed" not in written(tmp_path, [row("text", 0.98, 0.96, 1.0)])


def test_scenarios_of_other_settings_do_not_stand_on_one_page(tmp_path: Path) -> None:
    written(tmp_path, [row("text", 0.98, 0.98, 0.95)] * 2)
    file = tmp_path / "simulation" / "1.json"
    file.write_text(file.read_text().replace('"resamples": 500', '"resamples": 200'))
    with pytest.raises(ValueError, match=r"1\.json: expected the settings of 0\.json"):
        script("gates_page").page(tmp_path)


def test_the_rules_of_retries_are_on_the_published_page() -> None:
    from callbacks.recommendation import rules_markdown

    assert rules_markdown() in (SCRIPTS.parent / "docs/gates.md").read_text()


@pytest.mark.parametrize("kept", [1.0, 0.9])
def test_simulated_stages_lose_what_is_planted(kept: float) -> None:
    simulation = script("gate_simulation")
    shares = dict.fromkeys(simulation.BENCHMARKS, kept)
    found = []
    for seed in range(30):
        before, after = simulation.draw_benchmarks(seed, shares, full=False)
        found.append(
            [(a.value - b.chance) / (b.value - b.chance) for b, a in zip(before, after, strict=True)]
        )
    names = list(simulation.BENCHMARKS)
    mean = np.mean(found, axis=0)[names.index("arc_easy")]
    # 5 % of 2,368 answers change: an error of 0.46 % / 0.55 a run; four of them over 30 runs
    assert mean == pytest.approx(kept, abs=4 * 0.0084 / np.sqrt(30))


def test_too_few_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("gate_simulation").main(["--runs", "3"])
    assert "--runs must be at least 20, got 3" in capsys.readouterr().err


def test_a_stopped_simulation_goes_on_with_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = script("gate_simulation")
    two = [
        {"kind": "benchmarks, slices", "needed": 0.9, "kept": kept, "runs": 2}
        for kept in (1.0, {"humaneval": 0.0})
    ]
    monkeypatch.setattr(simulation, "scenarios", lambda runs: two)
    arguments = ["--output", str(tmp_path), "--resamples", "100"]
    assert simulation.main(arguments) == 0
    names = ["benchmarks-slices-0.9-1.0", "benchmarks-slices-0.9-humaneval-0.0"]
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == names
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert second["row"]["rejected"] == 1.0, "a benchmark that keeps nothing is seen"
    (tmp_path / f"{names[1]}.json").unlink()
    simulation.main(arguments)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == names[1:]
    assert json.loads((tmp_path / f"{names[1]}.json").read_text())["row"] == second["row"], "the same draws"
    assert json.loads((tmp_path / f"{names[0]}.json").read_text()) == first
    simulation.main([*arguments[:-1], "101"])
    assert len(capsys.readouterr().out.splitlines()) == 2, "other settings are simulated anew"
