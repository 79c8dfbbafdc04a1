"""Analyse stories260K and its compressed forms, and write ``docs/analysis.md``.

    python scripts/analysis_page.py --data ../shared/data
    python scripts/analysis_page.py --data ../shared/data --page

A run with one stage of 2 bits is looked at layer by layer; then the three stages of
``configs/recipes/order_stories260k.yaml`` are left out one by one, and put in all orders. Runs that have ended are not
run again, and those that were cut off go on: all of them lie in ``--runs``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fulgurite.analysis.runs import run_recipe
from fulgurite.cli.main import main as fulgurite

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = REPOSITORY / "configs/recipes/order_stories260k.yaml"
DATA_IN_RECIPES = "../shared/data"

TWO_BITS = {
    "codec": {"class_path": "EcqCodec", "init_args": {"states": 4, "rate": 2}},
    "metric": "kl",
}
"""The stage of the artefact that is looked at layer by layer: all matrices at 2 bits a weight, nothing refined."""

HEAD = """\
# Analysis

What compression does to a network, layer by layer, and what each stage of a recipe adds: `fulgurite analyze`. The
network is stories260K, a Llama of 260 thousand weights, on TinyStories.

| command | tells |
| --- | --- |
| `fulgurite analyze subspaces REFERENCE ARTEFACT --config RECIPE` | principal angles, Grassmann distances and CKA |
| `fulgurite analyze sensitivity REFERENCE ARTEFACT --config RECIPE` | what each layer's compression costs |
| `fulgurite analyze sparsity REFERENCE ARTEFACT --config RECIPE` | zeros, and patterns in them |
| `fulgurite analyze profile REFERENCE ARTEFACT --config RECIPE` | operators by time and memory |
| `fulgurite analyze ablation --config RECIPE --output_dir STUDY` | the recipe without each of its stages |
| `fulgurite analyze order --config RECIPE --output_dir STUDY` | its stages in other orders |

`REFERENCE` may be `-`: the network that the recipe names. Causal language models, text encoders, CLIP and BLIP are
loaded by their modules, as `compress` loads them. A study is a folder of runs, each `fulgurite compress` in a process
of its own; after a kill the same command goes on where it was cut off, and a run that has ended is not run again. A
study's gate lets pass what is above chance and saves bytes, unless `--keep_gate` is given: it asks what each variant
comes to.
"""


def recipe_in(data: Path) -> dict[str, Any]:
    """The recipe with its data in this folder."""
    content: dict[str, Any] = yaml.safe_load(RECIPE.read_text().replace(DATA_IN_RECIPES, str(data)))
    return content


def two_bits(recipe: Mapping[str, Any], runs: Path, threads: int) -> dict[str, Any]:
    """The same network and data under one stage."""
    settings = {"gate": {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01}, "retries": 0}
    settings |= {"report": False, "limit_windows": 64, "threads": threads, "cache_dir": str(runs / "cache")}
    return {**recipe, "cascade": {"stages": {"ecq2": TWO_BITS}, **settings}}


def section(page: Path, name: str, docs: Path) -> str:
    """One analysis' page as a section of the whole, its plot beside it."""
    text = page.read_text().replace("# ", "## ", 1)
    plot = page.with_suffix(".png")
    if plot.exists():
        target = f"{docs.stem}_{name}.png"
        shutil.copy(plot, docs.with_name(target))
        text = text.replace(f"]({plot.name})", f"]({target})")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with models/ and text/")
    parser.add_argument("--runs", type=Path, default=Path("runs/analysis"))
    parser.add_argument("--output", type=Path, default=Path("docs/analysis.md"))
    parser.add_argument("--threads", type=int, default=1, help="of each run; the bytes depend on it")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page of what is there")
    given = parser.parse_args(arguments)
    given.runs.mkdir(parents=True, exist_ok=True)
    recipe = recipe_in(given.data)
    config = given.runs / RECIPE.name
    config.write_text(yaml.safe_dump(recipe, sort_keys=False))
    study = ["--config", str(config), "--output_dir", str(given.runs), "--threads", str(given.threads)]
    pair = ["-", str(given.runs / "two_bits"), "--config", str(config), "--output_dir", str(given.runs)]
    if not given.page:
        run_recipe(given.runs, "two_bits", two_bits(recipe, given.runs, given.threads))
        for verb, flags in {
            "subspaces": pair,
            "sensitivity": pair,
            "profile": pair,
            "order": study,
            "ablation": study,
        }.items():
            if status := fulgurite(["analyze", verb, *flags]):
                return status
    sections = [HEAD]
    for name in ("subspaces", "sensitivity", "ablation", "order", "profile"):
        page = given.runs / f"{name}.md"
        if page.exists():
            sections.append(section(page, name, given.output))
    if len(sections) == 1:
        print(f"error: {given.runs} must hold analyses to write a page of, holds none", file=sys.stderr)
        return 1
    data = given.data.name if given.data.is_absolute() else given.data
    sections.append(f"All of it: `python scripts/analysis_page.py --data {data}`, `make analysis`.\n")
    given.output.write_text("\n".join(sections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
