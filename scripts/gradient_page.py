"""Train with compressed gradients in four processes, and write ``docs/gradient-compression.md``.

    python scripts/gradient_page.py --data ../shared/data
    python scripts/gradient_page.py --data ../shared/data --page

A small Llama on the documentation of Python's own library in four processes over gloo, and a small CLIP on emoji in
two, by the methods of ``lightning_modules.CompressedDDP``. What has ended is not run again: all of it lies in
``--runs``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gradient_runs import KEPT_STEPS, PART, TASKS, Task
from matplotlib.figure import Figure

from fulgurite.reporting.figures import INK, grid, legend_mark, save_png, series_style, styled

IMAGE = "gradient-compression.png"
TITLES = {
    "dense": "float32, all-reduced",
    "fp16": "PyTorch's fp16",
    "fixed4": "`fixed`, 4 bits",
    "powersgd4": "PyTorch's PowerSGD, rank 4",
    "powersgd1": "PyTorch's PowerSGD, rank 1",
    "adaptive8": "`adaptive`, target 8.5",
    **{f"adaptive{target}": f"`adaptive`, target {target}" for target in (10, 12, 20, 50, 200)},
    "adaptive7": "`adaptive`, target 7.5, 2 dense steps",
    "adaptive300": "`adaptive`, target 300, 1 dense step",
}

HEAD = """\
# Compressed gradients

Data-parallel training sends each step's gradients to every other process. `CompressedDDP` sends them in few bytes:

```yaml
trainer:
  devices: 4
  strategy:
    class_path: lightning_modules.CompressedDDP
    init_args: {method: adaptive, target: 10}   # or fixed, fp16, powersgd, none
```

It is Lightning's `DDPStrategy` with a communication hook that is registered on gloo as on NCCL. Each process quantises
its gradients, channel by channel, with the bits that are predicted from six statistics of the channel, codes them with
the project's entropy coder, and sends each of the others the rows that it sums; each then sends its mean, coded alike,
to all. What is left out stays in residuals and is sent later (error feedback). The quantiser's step follows
CAQ = (times fewer bytes) / (CPU seconds of a step + 1) to `target`, and
never leaves out more than `most_error` of the energy. Vectors, small tensors and the first `dense_steps` are
all-reduced as ever. With mixed precision, residuals are kept unscaled. A step with a gradient that is not finite is
skipped on all processes and counted. Checkpoints hold the residuals of all processes; resumed by another number of
them, each takes the mean. Logged, under `gradients/`: `wire_bytes`, `ratio`, `wire_ratio`, `caq`, `error`,
`residual_norm`, `not_finite`, `cpu_seconds`, `step`.

*On the wire* is how many times fewer bytes leave a process than in a ring all-reduce of float32, first dense steps
included.

"""


# the page


def page(runs: Path) -> str:
    """What the runs have measured."""
    parts = [HEAD, f"![Loss over the bytes that are sent]({IMAGE})\n\n"]
    parts += [_task(task, folder_of(task, runs)) for task in TASKS.values()]
    parts.append(
        "Bytes are counted, not timed: on this machine the network is memory, and no time is won by sending less. On a "
        "fast interconnect a plain fp16 all-reduce is hard to beat ([Agarwal et "
        "al.](https://arxiv.org/abs/2103.00543)).\n\n"
    )
    lines = [*_codes(runs), "", *_predictor(runs), "", "Made by `make gradients`."]
    return "".join(parts) + "\n".join(lines) + "\n"


def folder_of(task: Task, runs: Path) -> Path:
    """Where the runs of a network lie."""
    return runs if task.key == "llama" else runs / task.key


WIRE_RATIOS = (2, 4, 8, 16, 32)
FAMILIES = ("adaptive", "fixed", "powersgd", "fp16")


@styled
def plot(tasks: Sequence[tuple[Task, Path]]) -> Figure | None:
    """What is lost against dense training over how many times fewer bytes are sent, a panel a network."""
    found = [(task, _told(task, runs)) for task, runs in tasks]
    found = [(task, told) for task, told in found if len(told.get("dense", [])) > 1]
    if not found:
        return None
    figure = Figure(figsize=(4.2 * len(found), 3.4), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for panel, (task, told) in zip(axes, found, strict=True):
        dense = [each["loss"] for each in told["dense"]]
        panel.axhspan(-statistics.stdev(dense), statistics.stdev(dense), color=INK, alpha=0.12, linewidth=0)
        for place, family in enumerate(FAMILIES):
            points = sorted(
                (_mean(runs, "wire_ratio"), _away(runs, dense))
                for name, runs in told.items()
                if name.rstrip("0123456789") == family.rstrip("0123456789")
            )
            if points:
                colour, marker = series_style(place)
                panel.plot(
                    *zip(*points, strict=True), color=colour, marker=marker, markersize=5, linewidth=0.9
                )
        panel.set_yscale("symlog", linthresh=0.05)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.set_xscale("log", base=2)
        panel.set_xticks(WIRE_RATIOS, [f"{ratio}x" for ratio in WIRE_RATIOS])
        panel.set_title(f"{task.key}; shaded: one sd of dense", fontsize=10)
        panel.set_xlabel("times fewer bytes on the wire")
        panel.set_ylabel("loss over dense, nats")
        grid(panel, "both")
    marks = [legend_mark(*reversed(series_style(place)), name) for place, name in enumerate(FAMILIES)]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _told(task: Task, runs: Path) -> dict[str, list[dict[str, Any]]]:
    """What the trainings of a network have left, by method."""
    found = {
        name: [json.loads(path.read_text()) for path in sorted(runs.glob(f"{name}-?.json"))]
        for name in task.seeds
    }
    return {name: told for name, told in found.items() if told}


def _task(task: Task, runs: Path) -> str:
    """The table of one network, as far as it has been trained."""
    found = _told(task, runs)
    dense = [told["loss"] for told in found.get("dense", [])]
    if len(dense) < 2:
        return ""
    mean, spread = statistics.mean(dense), statistics.stdev(dense)
    seconds = statistics.mean(told["seconds"] for told in found["dense"])
    what = task.what.format(weights=f"{found['dense'][0]['weights']:,}")
    lines = [
        f"{what}, {task.ranks} processes over gloo on 2 cores, {task.steps} steps, the first {task.dense_steps} dense. "
        f"Loss is in {task.unit}; dense over {len(dense)} seeds: {mean:.4f}, standard deviation {spread:.4f}. *Against "
        "dense* is against the same seeds.",
        "",
        "| gradients | on the wire | left out | loss | against dense | CPU ms a step |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_row(name, told, dense, spread) for name, told in _by_ratio(found)),
        "",
        *_verdict(found, dense, spread),
        "",
        f"A dense step took {1000 * seconds / task.steps:.0f} ms here, {task.ranks} processes on two cores beside "
        "other work; CPU time is of one process.",
    ]
    return "\n".join(lines) + "\n\n"


def _by_ratio(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    return sorted(found.items(), key=lambda item: _mean(item[1], "wire_ratio"))


def _mean(told: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.mean(each["metrics"].get(f"gradients/{name}", 0.0) for each in told)


def _away(told: Sequence[Mapping[str, Any]], dense: Sequence[float]) -> float:
    """Mean loss over that of dense trainings of the same seeds, which are the first ones."""
    return statistics.mean(each["loss"] - other for each, other in zip(told, dense, strict=False))


def _row(name: str, told: Sequence[Mapping[str, Any]], dense: Sequence[float], spread: float) -> str:
    loss = statistics.mean(each["loss"] for each in told)
    seeds = f" ({len(told)} seeds)" if len(told) > 1 else ""
    more = _away(told, dense)
    away = f"{more:+.4f} ({more / spread:+.1f} sd)"
    error = f"{100 * _mean(told, 'error'):.0f} %" if name.startswith(("adaptive", "fixed")) else "-"
    seconds = f"{1000 * _mean(told, 'cpu_seconds'):.0f}" if name.startswith(("adaptive", "fixed")) else "-"
    return (
        f"| {TITLES[name]} | {_mean(told, 'wire_ratio'):.1f}x fewer | {error} | "
        f"{loss:.4f}{seeds} | {'-' if name == 'dense' else away} | {seconds} |"
    )


def _verdict(
    found: Mapping[str, Sequence[Mapping[str, Any]]], dense: Sequence[float], spread: float
) -> list[str]:
    """Where compressed training is as good as dense, and where it breaks."""
    within, beyond = [], []
    for name, told in _by_ratio(found):
        if name.startswith("adaptive"):
            more = _away(told, dense)
            (within if more <= spread else beyond).append(f"{_mean(told, 'wire_ratio'):.1f}x ({more:+.4f})")
    text = f"`adaptive` ends within one standard deviation of dense at {', '.join(within) or 'none of these'}"
    return [text + (f", and beyond it at {', '.join(beyond)}." if beyond else ".")]


def _codes(runs: Path) -> list[str]:
    """The adaptive code against the fixed one on the same gradients, at equal error."""
    from fulgurite.gradients import GradientCodec, caq, load_predictor

    path = runs / "predictor/network/predictor.safetensors"
    predictors = {"Gaussian formula": None} | (
        {"`EntropyPredictor`": load_predictor(path)} if path.exists() else {}
    )
    lines = [
        "## The code alone",
        "",
        "Gradients of the dense run on one process, its matrices in one payload; the adaptive code at the error of the "
        "fixed one. CAQ is ratio / (CPU seconds + 1).",
        "",
        "| step | fixed | error | ratio | CAQ | "
        + " | ".join(f"{name}: ratio | CAQ" for name in predictors)
        + " | CAQ gained |",
        "| ---: | ---: | ---: | ---: | ---: |" + " ---: | ---: |" * len(predictors) + " ---: |",
    ]
    gains = []
    for step in KEPT_STEPS:
        kept = torch.load(runs / f"gradients-{step}.pt", weights_only=True)
        given = [value for value in kept.values() if value.dim() >= 2]
        size = 4 * sum(value.numel() for value in given)
        for bits in (3, 4, 6):
            fixed, spent = _timed(GradientCodec(fixed_bits=bits), given, 1e-6)
            first = caq(size / fixed.num_bytes, spent)
            cells = []
            for predictor in predictors.values():
                payload, seconds = _timed(
                    GradientCodec(predictor), given, _step_at(given, fixed.error, predictor)
                )
                cells.append((size / payload.num_bytes, caq(size / payload.num_bytes, seconds)))
            gains.append(cells[0][1] / first - 1)
            lines.append(
                f"| {step} | {bits} bits | {100 * fixed.error:.2f} % | {size / fixed.num_bytes:.1f} | {first:.1f} | "
                + " | ".join(f"{ratio:.1f} | {gain:.1f}" for ratio, gain in cells)
                + f" | {100 * gains[-1]:+.0f} % |"
            )
    spreads = [
        statistics.stdev(told["parts"][1:]) / statistics.mean(told["parts"][1:])
        for name in ("adaptive10", "adaptive20")
        for told in [json.loads((runs / f"{name}-0.json").read_text())]
    ]
    lines += [
        "",
        f"CAQ gained over the fixed code: {100 * min(gains):.0f} to {100 * max(gains):.0f} %. Over a training, CAQ of "
        f"{PART} steps at a time spreads by {', '.join(f'{100 * spread:.1f} %' for spread in spreads)} of its mean "
        f"(targets 10 and 20, the first {PART} steps left out).",
    ]
    return lines


def _timed(codec: Any, given: Sequence[torch.Tensor], step: float) -> tuple[Any, float]:
    """A payload and the CPU seconds of coding it and reading it, the best of three."""
    best = float("inf")
    payload = codec.encode(given, step)
    for _ in range(3):
        clock = time.thread_time()
        payload = codec.encode(given, step)
        codec.decode(payload.data, given)
        best = min(best, time.thread_time() - clock)
    return payload, best


def _step_at(given: Sequence[torch.Tensor], error: float, predictor: Any) -> float:
    from fulgurite.gradients import GradientCodec

    codec, low, high = GradientCodec(predictor), 1e-3, 20.0
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if codec.encode(given, middle).error < error else (low, middle)
    return low


def _predictor(runs: Path) -> list[str]:
    """How well bits are predicted on what was not seen."""
    path = runs / "predictor.json"
    if not path.exists():
        return []
    scores = json.loads(path.read_text())
    places = ("unseen_layers", "unseen_steps")
    pairs = [(scores[f"test/{place}/error"], scores[f"test/{place}/error_gaussian"]) for place in places]
    rows = [
        f"| {place.replace('_', ' ')} | {error:.3f} | {formula:.3f} |"
        for place, (error, formula) in zip(places, pairs, strict=True)
    ]
    better = all(error < formula for error, formula in pairs)
    return [
        "## Predicted bits",
        "",
        "`configs/recipes/fit_entropy_predictor.yaml` learns bits per value from gradients recorded in "
        "`configs/recipes/quickstart_fit.yaml`, which are another network's. Mean absolute error in bits per value:",
        "",
        "| | `EntropyPredictor` | Gaussian formula |",
        "| --- | ---: | ---: |",
        *rows,
        "",
        "The predictor is nearer to what the coder takes. It only says which model a channel's codes share, and the "
        "formula sorts channels nearly as well: the table above has both. The formula is the default: it needs no file."
        if better
        else "The formula is as good or better, and is the default.",
    ]


def learn_predictor(runs: Path) -> None:
    """Record gradients of the quickstart's training, learn from them, and measure on what was kept back."""
    if (runs / "predictor.json").exists():
        return
    recipes = Path(__file__).resolve().parents[1] / "configs"
    records = runs / "recorded/gradients.safetensors"
    command = [sys.executable, "-m", "fulgurite.cli.main"]
    if not records.exists():
        recipe = [
            f"--config={recipes}/recipes/quickstart_fit.yaml",
            f"--config={recipes}/callbacks/record_gradients.yaml",
        ]
        more = [
            "--trainer.max_steps=80",
            "--trainer.enable_progress_bar=false",
            f"--output_dir={runs}/recorded",
        ]
        subprocess.run([*command, "fit", *recipe, *more], check=True)
    recipe = [f"--config={recipes}/recipes/fit_entropy_predictor.yaml", f"--data.files=[{records}]"]
    more = ["--trainer.enable_progress_bar=false"]
    subprocess.run([*command, "fit", *recipe, *more, f"--output_dir={runs}/predictor"], check=True)
    from lightning.pytorch import Trainer

    from datamodules import GradientRecordsDataModule
    from lightning_modules import EntropyPredictorModule

    module = EntropyPredictorModule(str(runs / "predictor/network/predictor.safetensors"))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=runs)
    found = trainer.test(module, GradientRecordsDataModule([str(records)]), verbose=False)
    scores = {key: value for part in found for key, value in part.items()}
    (runs / "predictor.json").write_text(json.dumps(scores))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/gradients"))
    parser.add_argument("--output", type=Path, default=Path("docs/gradient-compression.md"))
    parser.add_argument(
        "--page", action="store_true", help="write the page of what there is, and run nothing"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with images/emoji")
    parser.add_argument("--only", choices=sorted(TASKS), help="train this network alone")
    given = parser.parse_args(arguments)
    runs = given.runs.resolve()
    runs.mkdir(parents=True, exist_ok=True)
    if not given.page:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for task in TASKS.values():
            if given.only in (None, task.key):
                folder = folder_of(task, runs)
                folder.mkdir(exist_ok=True)
                worker = Path(__file__).resolve().with_name("gradient_runs.py")
                command = [sys.executable, str(worker), task.key, str(folder), str(given.data.resolve())]
                subprocess.run(command, env=environment, check=True)
        learn_predictor(runs)
    given.output.write_text(page(runs), encoding="utf-8")
    figure = plot([(task, folder_of(task, runs)) for task in TASKS.values()])
    assert figure is not None  # the page has a table
    save_png(figure, given.output.with_name(IMAGE))
    print(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
