"""Sweeps as searches; and what wandb's own agent makes of the sweep files is what our command takes."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.cli.search_keys import check_search, parse_command
from fulgurite.search.recipes import find_key
from fulgurite.search.settings import read_search
from fulgurite.search.sweeps import flags_of_sweep, search_of_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEPS = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))
SEARCHES = sorted((REPOSITORY / "configs" / "search").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # recipes are named from there


def drawn(sweep: dict[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """A run's arguments as the server of Weights & Biases sends them to an agent."""
    draw = random.Random(seed)
    args = {}
    for key, entry in sweep["parameters"].items():
        if "values" in entry:
            args[key] = {"value": draw.choice(entry["values"])}
        elif "q" in entry:
            args[key] = {"value": entry["q"] * draw.randrange(entry["max"] // entry["q"] + 1)}
        else:
            args[key] = {"value": draw.uniform(entry["min"], entry["max"])}
    return args


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_an_agent_runs_parses(path: Path, seed: int) -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load(path.read_text())
    command = utils.create_sweep_command(list(sweep["command"]))
    arguments = utils.create_sweep_command_args({"args": drawn(sweep, seed)})["args"]
    assert all(argument.startswith("--cascade.") for argument in arguments)
    place = command.index("${args}")
    line = [*command[:place], *arguments, *command[place + 1 :]]
    verb = line.index("fulgurite") + 1
    assert line[verb] == "compress"
    resolved = parse_command(line[verb + 1 :])
    for argument in arguments:
        key, _, value = argument.removeprefix("--").partition("=")
        node: Any = resolved
        for part in key.split("."):
            node = node[part] if part in node else node["init_args"][part]
        assert node == pytest.approx(yaml.safe_load(value))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_key_of_a_sweep_is_in_its_recipe(path: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    resolved = parse_command(flags_of_sweep(sweep)[1:3])  # --config RECIPE
    assert [key for key in sweep["parameters"] if find_key(resolved, key) is not True] == []
    search = tmp_path / "search.yaml"
    search.write_text(yaml.safe_dump(search_of_sweep(sweep, 7), sort_keys=False))
    settings = read_search(search)
    assert settings.trials == 7
    check_search(settings)


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_every_search_file_is_in_order(path: Path) -> None:
    check_search(read_search(path))


def test_ranges_of_a_sweep_become_ranges_of_a_search() -> None:
    sweep = yaml.safe_load((REPOSITORY / "configs" / "sweeps" / "stories260k_vptq.yaml").read_text())
    sweep["parameters"]["cascade.retries"] = {"value": 0}
    found = search_of_sweep(sweep, 4)
    assert found["recipe"] == "configs/recipes/stories260k.yaml"
    assert found["overrides"] == {"cascade.report": False, "cascade.retries": 0}  # and no logger of W&B
    assert found["objectives"] == [{"metric": "bytes", "direction": "minimize"}]
    stage = "cascade.stages.vptq3"
    assert found["space"][f"{stage}.codec.vector_length"] == {"choices": [2, 4]}
    assert found["space"][f"{stage}.refine.steps"] == {"type": "int", "low": 0, "high": 400, "step": 100}
    assert found["space"][f"{stage}.refine.learning_rate"]["log"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ["python", "train.py", "${args}"]}, r"command must be \[..., fulgurite, VERB"),
        ({"command": ["fulgurite", "${args}", "compress"]}, "the verb before"),
        ({"method": "hyperband"}, "method must be one of bayes, random, grid, got 'hyperband'"),
        ({"metric": {"name": "loss"}}, "metric.name must be one of rate/bytes.*got 'loss'"),
        ({"parameters": {"a": {"min": 0}}}, "parameters.a must have value, values, or min and max"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "beta"}}}, "parameters.a: distribution"),
    ],
)
def test_what_a_search_does_not_have_is_named(changes: dict[str, Any], message: str) -> None:
    sweep = {
        "method": "random",
        "metric": {"name": "rate/bytes", "goal": "minimize"},
        "parameters": {"cascade.retries": {"values": [0, 1]}},
        "command": ["${env}", "fulgurite", "compress", "--config", "recipe.yaml", "${args}"],
    }
    with pytest.raises(ValueError, match=message):
        search_of_sweep({**sweep, **changes}, 3)


def test_machines_that_share_a_database_search_the_same_in_folders_of_their_own(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("sweep_agent", REPOSITORY / "scripts" / "sweep_agent.py")
    assert spec is not None
    assert spec.loader is not None
    launcher = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    found = [launcher.search_command(sweep, "one", 7, tmp_path / name, "${DATABASE}") for name in ("a", "b")]
    for name, command in zip(("a", "b"), found, strict=True):
        search = tmp_path / name / "search.yaml"
        assert command[:3] == ["search", "--config", str(search)]
        assert command[3:] == ["--output_dir", str(tmp_path / name), "--storage", "${DATABASE}"]
        settings = read_search(search)
        assert (settings.name, settings.trials) == ("one", 7)  # the name of the study in the database
