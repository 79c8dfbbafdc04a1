"""Fit and compress the CLIPs and the BLIP of the recipes: writes ``docs/clip-blip.md``.

    python scripts/clip_blip.py --data ../shared/data
    python scripts/clip_blip.py --data ../shared/data --only "*emoji"
    python scripts/clip_blip.py --data ../shared/data --page

Each network is fitted and compressed by the ``fulgurite`` command in processes of its own. What has ended is not run
again, and what was cut off goes on. The page is made from the runs' records; the speed of the data path and the check
of full-size networks have commands of their own, whose tables are taken in where they have been written.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_IN_RECIPES = "../shared/data"


@dataclass(frozen=True)
class Network:
    """A network that is fitted and compressed.

    Args:
        recipe: Of the compression, in ``configs/recipes``; that of the fit has ``fit_`` before its name.
        title: Heading of its section.
        what: What a reader has to know.
    """

    recipe: str
    title: str
    what: str


NETWORKS = [
    Network(
        "clip_cifar10",
        "A CLIP on CIFAR-10",
        "An open_clip network with a residual tower for pictures and a small transformer for texts, fitted from "
        "scratch on 9,500 pictures whose texts are made of their class's name. Judged by zero-shot classification of "
        "all 10,000 test pictures.",
    ),
    Network(
        "clip_emoji",
        "A CLIP on emoji",
        "A network of transformers, fitted from scratch on 1,258 emoji with their names and keywords. Judged by "
        "retrieval both ways among the 185 emoji of the test split, which are no variants of those of training, and "
        "by the cosine of each tower's vectors with the reference's.",
    ),
    Network(
        "blip_emoji",
        "A BLIP that names emoji",
        "A network of transformers that writes captions by beam search, fitted from scratch on the same emoji's names. "
        "Judged by CIDEr and ROUGE-L of pycocoevalcap on the 185 test emoji; chance is the captions of other pictures.",
    ),
]


def run(network: Network, data: Path, runs: Path, threads: int) -> None:
    """Fit and compress, as far as that was not done."""
    folder = runs / f"fit_{network.recipe}" / "network"
    if not folder.is_dir():
        fit = recipe_of(f"fit_{network.recipe}", data, runs)
        call("fit", fit, runs / f"fit_{network.recipe}", threads, ["--ckpt_path", "last"])
    record = runs / network.recipe / "record.json"
    if not (record.is_file() and json.loads(record.read_text())["finished"]):
        compress = recipe_of(network.recipe, data, runs)
        more = ["--model.source", str(folder), f"--cascade.threads={threads}"]
        call("compress", compress, runs / network.recipe, threads, more)


def recipe_of(name: str, data: Path, runs: Path) -> Path:
    """A copy of a recipe that finds the data."""
    text = (REPOSITORY / f"configs/recipes/{name}.yaml").read_text()
    path = runs / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(DATA_IN_RECIPES, str(data.resolve())))
    return path


def call(verb: str, recipe: Path, folder: Path, threads: int, more: Sequence[str]) -> None:
    """Run a verb of the command."""
    program = str(Path(sys.executable).with_name("fulgurite"))
    command = [program, verb, "--config", str(recipe), "--output_dir", str(folder), *more]
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode not in (0, 3):  # 3: the gate says no, which the page tells
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")


def lines_of(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The reference and each stage's deciding try, with all measures."""
    reference = record["reference"]
    lines = [
        {
            "network": "reference, fp32",
            "bytes": f"{reference['num_bytes']:,}",
            "ratio": "1x",
            "bits a weight": "32",
            **{name: score(each["value"], each["unit"]) for name, each in reference["scores"].items()},
        }
    ]
    for stage in record["stages"]:
        attempt = stage["tries"][-1]
        measures = attempt["gate"]["per_measure"]
        lines.append(
            {
                "network": stage["name"] if stage["accepted"] else f"{stage['name']} (turned down)",
                "bytes": f"{attempt['num_bytes']:,}",
                "ratio": f"{attempt['ratio']:.1f}x",
                "bits a weight": f"{attempt['bits_per_weight']:.2f}",
                **{each["name"]: told(each) for each in measures},
            }
        )
    chance = {
        each["name"]: score(each["chance"], each["unit"])
        for each in record["stages"][0]["tries"][-1]["gate"]["per_measure"]
    }
    return [*lines, {"network": "chance", **chance}]


def score(value: float | None, unit: str) -> str:
    """A score for a reader."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.3f}"


def told(measure: Mapping[str, Any]) -> str:
    """A score with the share of the reference's that it is, and what is kept above chance."""
    value = score(measure["value"], measure["unit"])
    if not measure["informative"]:
        return f"{value} (reference at chance)"
    low, high = (100 * measure[key] for key in ("low", "high"))
    return f"{value}: raw {100 * measure['raw_ratio']:.1f} %, kept {low:.1f} to {high:.1f} %"


def fitted(folder: Path) -> str:
    """How the reference was fitted, from the run's own metrics."""
    path = folder / "metrics" / "metrics.csv"
    if not path.is_file():
        return ""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    last = {key: value for row in rows for key, value in row.items() if value and key.startswith("val/")}
    scores = ", ".join(f"{key.removeprefix('val/')} {float(value):.3f}" for key, value in last.items())
    return (
        f"Fitted for {int(rows[-1]['step']) + 1:,} steps; at the last validation {scores}." if scores else ""
    )


def section(network: Network, runs: Path) -> str:
    """The section of a network whose run has ended; empty before."""
    path = runs / network.recipe / "record.json"
    if not path.is_file() or not (record := json.loads(path.read_text()))["finished"]:
        return ""
    parts = [
        f"## {network.title}",
        f"{network.what} {fitted(runs / f'fit_{network.recipe}')}",
        f"`configs/recipes/fit_{network.recipe}.yaml`, then `configs/recipes/{network.recipe}.yaml`.",
        table(lines_of(record)),
    ]
    return "\n\n".join(part.strip() for part in parts)


def table(lines: Sequence[Mapping[str, str]]) -> str:
    """As Markdown."""
    head = list(dict.fromkeys(key for each in lines for key in each))
    rows = [head, ["---"] * len(head), *[[each.get(key, "-") for key in head] for each in lines]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


TAKEN_IN = {
    "full_size.md": (
        "Full-size networks",
        "ViT-B-32 of open_clip and BLIP-base of transformers with random weights, coded, saved and loaded: what comes "
        "out of the network after loading is what came out of it before saving. "
        "`python scripts/full_size_check.py > runs/clip_blip/full_size.md`",
    ),
    "images.md": (
        "The data path",
        "What feeds a training: see `docs/benchmarks.md` for the machine.",
    ),
}
"""Tables of other commands: file in the runs' folder -> title and what a reader has to know."""


def page(runs: Path, command: str) -> str:
    """The whole page."""
    text = [
        "# CLIP and BLIP",
        "Image-text networks go through the same `fulgurite fit` and `fulgurite compress` as language models: CLIP of "
        "open_clip (`open_clip:NAME`, `local-dir:FOLDER`, a folder) and of transformers, BLIP of transformers for "
        "captions and for matching. Both towers, projections and a text decoder are coded under one limit in bytes. "
        "An artefact loads by `fulgurite.load(folder)`, which adds `network.preprocess(picture)` and "
        "`network.tokenize(texts)`, or by transformers' own `from_pretrained`.",
        "```yaml\n"
        "model:\n"
        "  class_path: lightning_modules.Clip\n"
        "  init_args:\n"
        "    source: open_clip:ViT-B-32   # or a folder of open_clip or transformers\n"
        "    pretrained: laion2b_s34b_b79k\n"
        "    benchmarks:                  # what a stage is judged by; the usual ones where the key is left out\n"
        "      - class_path: fulgurite.evaluation.benchmarks.ZeroShot\n"
        "      - class_path: fulgurite.evaluation.benchmarks.Drift\n"
        "data:\n"
        "  class_path: datamodules.ClassFolderDataModule   # or Captions-, WebShards-, ShapesDataModule\n"
        "  init_args: {pictures: imagenet, class_names: class_names.json}\n"
        "```",
        "| data | data module | fragment |\n| --- | --- | --- |\n"
        "| caption JSON in the forms of Karpathy and COCO | `CaptionsDataModule` | `coco`, `flickr30k`, `emoji` |\n"
        "| class folders, in a folder, zip or tar | `ClassFolderDataModule` | `imagenet`, `cifar10` |\n"
        "| WebDataset shards | `WebShardsDataModule` | `conceptual_captions` |\n"
        "| coloured shapes drawn in memory | `ShapesDataModule` | `shapes` |",
        "Benchmarks: `ZeroShot` (top-1, top-5), `Retrieval` (R@k both ways), `Captioning` (CIDEr, ROUGE-L, BLEU, "
        "METEOR and SPICE where Java and their files are), `Matching`, `Drift` (cosine of each tower's vectors with "
        "the reference's). Each has its chance level and a result for every picture, which the gate decides by. Here "
        "*raw* is the score over the reference's, *kept* the 95 % interval of what is left above chance.",
    ]
    text += [found for network in NETWORKS if (found := section(network, runs))]
    for name, (title, what) in TAKEN_IN.items():
        if (runs / name).is_file():
            written = (runs / name).read_text().strip()
            text += [
                f"## {title}",
                what,
                written.partition("\n\n")[2] if written.startswith("# ") else written,
            ]
    text.append(f"Made by `{command}` from the runs' records.\n")
    return "\n\n".join(text)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with images/")
    parser.add_argument("--runs", type=Path, default=Path("runs/clip_blip"))
    parser.add_argument("--output", type=Path, default=Path("docs/clip-blip.md"))
    parser.add_argument("--only", default="*", help="pattern of the recipes to run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what is known")
    given = parser.parse_args()
    for network in NETWORKS:
        if not given.page and fnmatchcase(network.recipe, given.only):
            run(network, given.data, given.runs, given.threads)
    given.output.write_text(page(given.runs, f"python scripts/clip_blip.py --data {DATA_IN_RECIPES}"))


if __name__ == "__main__":
    main()
