"""Pages made of runs: their recipes are what the command takes, and their words follow from the numbers."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from callbacks.cascade import Cascade
from fulgurite.cli.lightning_cli import FulguriteCLI, make_cli

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module(name)


@pytest.mark.parametrize("base", [True, False])
def test_the_ways_of_storing_a_delta_are_stages_of_a_recipe(
    base: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = script("delta_page", monkeypatch)
    recipe = page.recipe(tmp_path / "data", tmp_path / "runs", base=base)
    monkeypatch.setattr(FulguriteCLI, "_run_subcommand", lambda self, verb: None)
    monkeypatch.delenv("FULGURITE_OUTPUT_DIR", raising=False)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    cli = make_cli("compress", ["--config", str(path), "--trainer.logger", "false"], tmp_path)
    callbacks: Any = cli.trainer
    cascade = next(callback for callback in callbacks.callbacks if isinstance(callback, Cascade))
    assert list(cascade.stages) == list(page.WAYS if base else page.ALONE)
    assert cascade.base == (str(tmp_path / "runs/base") if base else None)


def stage(name: str, num_bytes: int, bits: float) -> dict[str, Any]:
    measures = [{"name": "bits_per_byte", "value": bits}]
    return {
        "name": name,
        "num_bytes": num_bytes,
        "retention": 1 / bits,
        "retention_low": 0.9 / bits,
        "tries": [{"gate": {"per_measure": measures}}],
    }


def test_a_random_choice_is_said_to_lose_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    page = script("delta_page", monkeypatch)
    shares = (50, 75, 90, 99)
    dare = [stage(f"dare{share}", 1000 - share, 2.0) for share in shares]
    unbiased = [stage(f"dare{share}_unbiased", 1000 - share, 3.0) for share in (50, 75, 90)]
    (beaten,) = page._verdicts({"stages": [*dare, *unbiased, stage("ecq1", 920, 1.5)]})
    assert "keeps more than the paper's" in beaten
    assert re.search(r"beaten in fewer bytes at 50 % by \S+ 1 bit, at 75 %", beaten)
    assert "at 90 %" not in beaten.partition("beaten")[2]
    (best,) = page._verdicts({"stages": [*dare, *unbiased, stage("ecq1", 2000, 1.5)]})
    assert "No other codec has fewer bits/byte" in best
    worse = [stage(f"dare{share}_unbiased", 1000 - share, 1.0) for share in (50, 75, 90)]
    (mixed,) = page._verdicts({"stages": [*dare, *worse]})
    assert "keeps more than the paper's" not in mixed


def told(loss: float, wire: float, caq: float = 10.0) -> dict[str, Any]:
    names = {"wire_ratio": wire, "ratio": wire, "error": 0.05, "cpu_seconds": 0.01, "caq": caq}
    return {
        "loss": loss,
        "seconds": 30.0,
        "weights": 100,
        "parts": [1.0, caq, caq * 1.01],
        "metrics": {f"gradients/{name}": value for name, value in names.items()},
    }


def test_the_page_on_gradients_says_where_training_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = script("gradient_page", monkeypatch)
    runs = {
        "dense-0": told(3.0, 1),
        "dense-1": told(3.2, 1),
        "adaptive10-0": told(3.1, 9),
        "adaptive20-0": told(4, 19),
    }
    for name, content in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "clip").mkdir()
    for name, loss, wire in (("dense-0", 1.0, 1), ("dense-1", 1.2, 1), ("adaptive8-0", 1.5, 8)):
        (tmp_path / "clip" / f"{name}.json").write_text(json.dumps(told(loss, wire)))
    generator = torch.Generator().manual_seed(0)
    for step in page.KEPT_STEPS:
        values = torch.randn(32, 64, generator=generator) * torch.logspace(-1, 1, 32)[:, None]
        torch.save({"weight": values, "bias": values[0]}, tmp_path / f"gradients-{step}.pt")
    text = page.page(tmp_path)
    # dense: 3.0 with the first seed, a standard deviation of 0.14 over both
    within = "ends within one standard deviation of dense at 9.0x (+0.1000)"
    assert f"{within}, and beyond it at 19.0x (+1.0000)" in text
    assert "| `adaptive`, target 10 | 9.0x fewer | 5 % | 3.1000 | +0.1000 (+0.7 sd) | 10 |" in text
    assert "the CLIP" not in text.partition("The CLIP of 100 weights")[0]
    assert (
        "ends within one standard deviation of dense at none of these, and beyond it at 8.0x (+0.5000)"
        in text
    )
    figure = page.plot([(task, page.folder_of(task, tmp_path)) for task in page.TASKS.values()])
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]  # dense is the shaded band
    assert len(re.findall(r"\| [346] bits \|", text)) == 9
    assert "spreads by 0.7 %, 0.7 % of its mean" in text
