"""Does Grokfast help to compress? Writes ``docs/grokfast.md``.

    python scripts/grokfast_study.py --data ../shared/data --output docs/grokfast.md
    python scripts/grokfast_study.py --data ../shared/data --seeds 1 --steps 20
    python scripts/grokfast_study.py --data ../shared/data --page

Each arm of each task runs once for each seed by ``fulgurite compress``, in a process of its own; what has ended is not
run again. Arms are paired by seed: the same text in the same order. The filter multiplies slow gradients by up to
``1 + lamb``, so every filter has a control without it whose steps are ``1 + lamb`` times as long.
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
from pathlib import Path
from typing import Any

import yaml

_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Two-sided 95 % quantile of Student's t by the number of pairs."""

ARMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "EMA 0.98, lamb 2": {"filter": "ema", "alpha": 0.98, "lamb": 2.0},
    "EMA 0.8, lamb 0.1": {"filter": "ema", "alpha": 0.8, "lamb": 0.1},
    "MA 25, lamb 2": {"filter": "ma", "window": 25, "lamb": 2.0},
    "control, steps 3x": {"lamb": 2.0, "learning_rate_control": True},
    "control, steps 1.1x": {"lamb": 0.1, "learning_rate_control": True},
}
"""Settings of the filter: the paper's defaults, its mild ones, its moving average with a window that fits the run."""

CONTROLS = {
    "EMA 0.98, lamb 2": "control, steps 3x",
    "MA 25, lamb 2": "control, steps 3x",
    "EMA 0.8, lamb 0.1": "control, steps 1.1x",
}
"""Of each filter, the run without one whose steps are as much longer."""

TASKS = {
    "refinement": "Scales, codebooks and norms of stories260K in 2-bit VPTQ are trained towards the reference "
    "(`refine`).",
    "distillation": "A student of stories260K with 3 of its 5 layers and half of its neurons learns the teacher's "
    "largest logits (`DistillStage`).",
}


def stage_of(task: str, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """The stage that a run consists of."""
    settings = ARMS[arm]
    grokfast = {} if settings is None else {"grokfast": settings}
    if task == "refinement":
        codec = {"class_path": "VptqCodec", "init_args": {"vector_length": 4, "codebook_size": 256}}
        return {"codec": codec, "refine": {"steps": steps, "learning_rate": 0.003, "seed": seed, **grokfast}}
    shape = {"layers": 3, "intermediate_size": 86}
    settings = {
        "shape": shape,
        "steps": steps,
        "windows": 1024,
        "learning_rate": 0.002,
        "seed": seed,
        **grokfast,
    }
    return {"class_path": "callbacks.stages.DistillStage", "init_args": settings}


def run(task: str, arm: str, seed: int, steps: int, data: Path, runs: Path, threads: int) -> float:
    """The divergence on held-out windows at the end, nats a position."""
    name = f"{task}-{list(ARMS).index(arm)}-{seed}-{steps}"
    folder, recipe = runs / name, runs / f"{name}.yaml"
    record = folder / "record.json"
    if not (record.exists() and json.loads(record.read_text())["finished"]):
        texts = {
            "train": "tinystories",
            "data_dir": str(data.resolve() / "text"),
            "window": 256,
            "batch_size": 8,
        }
        content = {
            "model": {
                "class_path": "lightning_modules.LanguageModel",
                "init_args": {"source": str(data.resolve() / "models/stories260K")},
            },
            "data": {
                "class_path": "datamodules.TextDataModule",
                "init_args": {**texts, "max_windows_validation": 64, "calibration_windows": 64},
            },
            "cascade": {
                "stages": {"only": stage_of(task, arm, seed, steps)},
                "gate": {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01},
                "retries": 0,
                "report": False,
                "threads": threads,
            },
            "trainer": {"accelerator": "cpu"},
        }
        runs.mkdir(parents=True, exist_ok=True)
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))
        program = str(Path(sys.executable).with_name("fulgurite"))
        command = [program, "compress", "--config", str(recipe), "--output_dir", str(folder)]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        if done.returncode not in (0, 3):
            raise RuntimeError(f"{name} ended with status {done.returncode}: {done.stderr.strip()[-400:]}")
    attempt = json.loads(record.read_text())["stages"][0]["tries"][-1]
    return float((attempt["refine"] or attempt["structure"])["loss_last"])


def known(task: str, arm: str, steps: int, runs: Path) -> dict[int, float]:
    """What has ended, by seed."""
    found = {}
    for path in sorted(runs.glob(f"{task}-{list(ARMS).index(arm)}-*-{steps}/record.json")):
        record = json.loads(path.read_text())
        if record["finished"]:
            attempt = record["stages"][0]["tries"][-1]
            found[int(path.parent.name.split("-")[2])] = float(
                (attempt["refine"] or attempt["structure"])["loss_last"]
            )
    return found


def lines_of(results: Mapping[str, Mapping[int, float]]) -> list[dict[str, str]]:
    """One line an arm: its mean, and its difference from the plain run, paired by seed."""
    plain = results["none"]
    lines = []
    for arm, found in results.items():
        seeds = sorted(set(found) & set(plain))
        if not seeds:
            continue
        mean = statistics.fmean(found[seed] for seed in seeds)
        line = {
            "filter": arm,
            "seeds": str(len(seeds)),
            "divergence, nats": f"{mean:.4f}",
            "against none": "-",
            "against its control": "-",
        }
        if arm != "none":
            line["against none"] = difference([found[seed] - plain[seed] for seed in seeds])
        control = results.get(CONTROLS.get(arm, ""), {})
        if both := sorted(set(found) & set(control)):
            line["against its control"] = difference([found[seed] - control[seed] for seed in both])
        lines.append(line)
    return lines


def difference(pairs: Sequence[float]) -> str:
    """Mean and 95 % interval of paired differences, and what it says."""
    mean = statistics.fmean(pairs)
    if len(pairs) < 2:
        return f"{mean:+.4f}"
    half = _T95.get(len(pairs), 1.96) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    verdict = "better" if mean + half < 0 else "worse" if mean - half > 0 else "not told apart"
    return f"{mean:+.4f} ± {half:.4f}: {verdict}"


def page(sections: Mapping[str, list[dict[str, str]]], steps: int, command: str) -> str:
    """The Markdown page."""
    text = [
        "# Grokfast: measured",
        "`Grokfast` adds a slow average of the gradients to each gradient before the optimiser sees it (Lee et al., "
        "[arXiv 2405.20233](https://arxiv.org/abs/2405.20233)): `EMA`, or `MA` over a window. It multiplies what is "
        "slow by up to `1 + lamb`, so a longer step alone may do as much: that is the control. The divergence is from "
        f"the teacher's distributions on windows that were not trained on, after {steps} steps; less is better. ± is "
        "half a 95 % interval of the differences, paired by seed.",
    ]
    better: dict[str, list[str]] = {"against none": [], "against its control": []}
    for task, lines in sections.items():
        head = list(lines[0])
        rows = [head, ["---", *["---:"] * (len(head) - 1)], *[list(line.values()) for line in lines]]
        text += [f"## {task.capitalize()}", TASKS[task], "\n".join(f"| {' | '.join(row)} |" for row in rows)]
        for against, found in better.items():
            found += [
                f"{line['filter']} in {task}"
                for line in lines
                if line[against].endswith(": better") and line["filter"] in CONTROLS
            ]
    told = [
        f"better {against.replace('against', 'than')}: {', '.join(found) or 'not one'}"
        for against, found in better.items()
    ]
    text += [
        "## What follows",
        f"Of the filters here, {'; '.join(told)}. The filter is off by default everywhere, and a claim for it needs "
        "the row of its control: `learning_rate_control: true`.",
        f"Made by `{command}`.\n",
    ]
    return "\n\n".join(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with models/ and text/")
    parser.add_argument("--runs", type=Path, default=Path("runs/grokfast"))
    parser.add_argument("--output", type=Path, default=Path("docs/grokfast.md"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what is known")
    given = parser.parse_args(arguments)
    if not given.page:
        for seed in range(given.seeds):  # seed by seed: what there is, is paired
            for task in TASKS:
                for arm in ARMS:
                    loss = run(task, arm, seed, given.steps, given.data, given.runs, given.threads)
                    print(f"{task}, {arm}, seed {seed}: {loss:.4f}", file=sys.stderr)
    found = {task: {arm: known(task, arm, given.steps, given.runs) for arm in ARMS} for task in TASKS}
    sections = {task: lines for task, results in found.items() if (lines := lines_of(results))}
    if not sections:
        raise SystemExit(f"{given.runs} must hold ended runs to write a page of, holds none")
    data = given.data.name if given.data.is_absolute() else given.data
    given.output.write_text(page(sections, given.steps, f"python scripts/grokfast_study.py --data {data}"))


if __name__ == "__main__":
    main()
