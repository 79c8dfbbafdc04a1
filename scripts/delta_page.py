"""Store what fine-tuning changed, by several codecs, and write ``docs/deltas.md``.

    python scripts/delta_page.py --data ../shared/data
    python scripts/delta_page.py --data ../shared/data --page

stories260K is fine-tuned by ``configs/recipes/tune_stories260k.yaml`` and compressed as a base; then each way of
storing the difference is a stage of one run over that base, and each size of the whole network a stage of another.
What has ended is not run again: all of it lies in ``--runs``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fulgurite.analysis.runs import run_recipe
from fulgurite.artifact.manifest import read_manifest
from fulgurite.cli.main import main as fulgurite
from fulgurite.reporting.record import read_record

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "configs/recipes"
DATA_IN_RECIPES = "../shared/data"

HEAD = """\
# Deltas

A fine-tuned network is its base and a difference. Where there are several of one base, or the base is on the machine
already, the difference is all that has to be stored:

```yaml
# configs/recipes/delta_stories260k.yaml
cascade:
  base: runs/deltas/base                             # an artefact, or a run with one
  base_source: ../shared/data/models/stories260K     # the network that it was made of
  stages:
    dare:
      codec: {class_path: DareCodec, init_args: {drop: 0.75, bits: 4}}
```

Stages, metrics, allocation, refinement and gates work as they do on weights; any codec can code a difference. Stages
that make another network, and repair, do not go with a base. With `base_source`, differences are taken from the
network that the base was made of, and the base's own error stays; without it, from what the base decodes to: they make
up for its error and are larger. Weights that fine-tuning left alone take some bytes, not 16 bits each. Base and
fine-tuned network must have the same weights in the same shapes.

```python
network = fulgurite.load("runs/delta_stories260k/artifact")  # finds its base, by path and checksum
network = fulgurite.load("runs/delta_stories260k/artifact", base="elsewhere/base")
network = fulgurite.merge("runs/deltas/base/artifact", ["runs/one/artifact", "runs/two/artifact"], [0.5, 0.5])
```

`DareCodec` drops each entry with a probability ([DARE](https://arxiv.org/abs/2311.03099)); which ones is told by a
seed of four bytes, so that only survivors cost anything. `rescale: unbiased` scales them by 1 / (1 - drop), as the
paper does; `rescale: fit`, the default, by what leaves each row's outputs the least error
([DAREx](https://arxiv.org/abs/2410.09344) searches for such a scale; here it is solved for).

## What comes of it

"""

DARE = "DareCodec"
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"class_path": "Float16Codec"},
    "ecq2": {"class_path": "EcqCodec", "init_args": {"rate": 2, "states": 8}},
    "dare50": {"class_path": DARE, "init_args": {"drop": 0.5, "bits": 4}},
    "dare50_unbiased": {"class_path": DARE, "init_args": {"drop": 0.5, "bits": 4, "rescale": "unbiased"}},
    "magnitude75": {"class_path": "SparseCodec", "init_args": {"sparsity": 0.75, "bits": 4}},
    "ecq1": {"class_path": "EcqCodec", "init_args": {"rate": 1, "states": 8}},
    "signs": {"class_path": "UniformCodec", "init_args": {"bits": 1, "group_size": 64, "symmetric": True}},
    "dare75": {"class_path": DARE, "init_args": {"drop": 0.75, "bits": 4}},
    "dare75_unbiased": {"class_path": DARE, "init_args": {"drop": 0.75, "bits": 4, "rescale": "unbiased"}},
    "magnitude90": {"class_path": "SparseCodec", "init_args": {"sparsity": 0.9, "bits": 4}},
    "ecq05": {"class_path": "EcqCodec", "init_args": {"rate": 0.5, "states": 1}},
    "dare90": {"class_path": DARE, "init_args": {"drop": 0.9, "bits": 4}},
    "dare90_unbiased": {"class_path": DARE, "init_args": {"drop": 0.9, "bits": 4, "rescale": "unbiased"}},
    "dare99": {"class_path": DARE, "init_args": {"drop": 0.99, "bits": 4}},
    "ecq025": {"class_path": "EcqCodec", "init_args": {"rate": 0.25, "states": 1}},
}
TITLES = {
    "whole": "all of it, 16 bits",
    "ecq2": "`EcqCodec`, 2 bits",
    "ecq1": "`EcqCodec`, 1 bit",
    "ecq05": "`EcqCodec`, 0.5 bits",
    "ecq025": "`EcqCodec`, 0.25 bits",
    "signs": "signs and a scale for 64 (`UniformCodec`, 1 bit)",
    **{f"magnitude{share}": f"largest {100 - share} %, 4 bits (`SparseCodec`)" for share in (75, 90)},
    **{f"dare{share}": f"`DareCodec`, {share} % dropped, 4 bits" for share in (50, 75, 90, 99)},
    **{
        f"dare{share}_unbiased": f"`DareCodec`, {share} % dropped, 4 bits, `rescale: unbiased`"
        for share in (50, 75, 90)
    },
}
ALONE = {f"rate{str(rate).replace('.', '_')}": rate for rate in (3, 2, 1.5, 1, 0.75)}
LENIENT = {"stage_retention": [0.001], "cumulative": 0.001, "floor": 0.001}


def recipe(data: Path, runs: Path, base: bool) -> dict[str, Any]:
    """The recipe of the page with all ways as stages, over the base or of the whole network."""
    text = (RECIPES / "delta_stories260k.yaml").read_text().replace(DATA_IN_RECIPES, str(data))
    made: dict[str, Any] = yaml.safe_load(text.replace("runs/deltas", str(runs)))
    cascade = made["cascade"] | {"gate": LENIENT, "retries": 0, "report": False}
    ways: Mapping[str, Mapping[str, Any]] = WAYS
    if not base:
        cascade = {key: value for key, value in cascade.items() if not key.startswith("base")}
        ways = {
            name: {"class_path": "EcqCodec", "init_args": {"rate": rate, "states": 8}}
            for name, rate in ALONE.items()
        }
    return made | {
        "cascade": cascade | {"stages": {name: {"codec": dict(codec)} for name, codec in ways.items()}}
    }


def prepare(data: Path, runs: Path) -> None:
    """Fine-tune, and compress the base, where that is not done."""
    if not (runs / "tuned/network/config.json").exists():
        _do("fit", "tune_stories260k.yaml", data, runs / "tuned")
    base = yaml.safe_load((RECIPES / "stories260k.yaml").read_text().replace(DATA_IN_RECIPES, str(data)))
    base["cascade"] = {
        "gate": LENIENT,
        "report": False,
        "stages": {"four": {"codec": {"class_path": "EcqCodec", "init_args": {"rate": 4, "states": 8}}}},
    }
    run_recipe(runs, "base", base)


def _do(command: str, name: str, data: Path, output: Path) -> None:
    text = (RECIPES / name).read_text().replace(DATA_IN_RECIPES, str(data))
    path = output.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if status := fulgurite([command, "--config", str(path), "--output_dir", str(output)]):
        raise RuntimeError(f"fulgurite {command} --config {path} ended with {status}")


def page(runs: Path) -> str:
    """The page of what the runs have measured."""
    over, alone = (read_record(runs / name) for name in ("over", "alone"))
    base = read_manifest(runs / "base/artifact").num_bytes
    reference = over["reference"]["scores"]["bits_per_byte"]["value"]
    lines = [
        f"stories260K, fine-tuned on Shakespeare for 300 steps ({reference:.3f} bits/byte there), over a base of "
        f"{base:,} bytes at four bits a weight. *Kept* is what is left of the fine-tuned network's advantage over "
        "chance, with the lower end of its 95 % interval; bytes are of the delta, manifest and norms included. "
        "What the difference in 16 bits does not keep is the base's own error.",
        "",
        "| the difference | bytes | bits/byte | kept |",
        "| --- | ---: | ---: | ---: |",
        *(_row(TITLES[stage["name"]], stage) for stage in _by_size(over)),
        "",
        "The fine-tuned network by itself, without a base:",
        "",
        "| all weights | bytes | bits/byte | kept |",
        "| --- | ---: | ---: | ---: |",
        *(_row(f"`EcqCodec`, {ALONE[stage['name']]:g} bits", stage) for stage in _by_size(alone)),
        "",
        *_verdicts(over),
        "",
        "Made by `make deltas`.",
    ]
    return HEAD + "\n".join(lines) + "\n"


def _by_size(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(record["stages"], key=lambda stage: -int(stage["num_bytes"]))


def _row(title: str, stage: Mapping[str, Any]) -> str:
    kept, low = (max(0.0, stage[key]) for key in ("retention", "retention_low"))
    return f"| {title} | {stage['num_bytes']:,} | {_bits(stage):.3f} | {100 * kept:.1f} % (at least {100 * low:.1f}) |"


def _bits(stage: Mapping[str, Any]) -> float:
    measures = stage["tries"][-1]["gate"]["per_measure"]
    return float(next(measure["value"] for measure in measures if measure["name"] == "bits_per_byte"))


def _verdicts(record: Mapping[str, Any]) -> list[str]:
    """What the rows say of random choice, in numbers that are theirs."""
    stages = {stage["name"]: stage for stage in record["stages"]}
    said = []
    for share in (50, 75, 90):
        fit, paper = stages[f"dare{share}"], stages[f"dare{share}_unbiased"]
        said.append(f"{_bits(fit):.3f} against {_bits(paper):.3f} at {share} %")
    cheaper = []
    for share in (50, 75, 90, 99):
        dare = stages[f"dare{share}"]
        better = [
            other
            for other in record["stages"]
            if not other["name"].startswith("dare")
            and other["num_bytes"] <= dare["num_bytes"]
            and _bits(other) < _bits(dare)
        ]
        if better:
            best = min(better, key=_bits)
            cheaper.append(f"at {share} % by {TITLES[best['name']]}")
    text = [f"A scale that is solved for keeps more than the paper's: bits/byte of {', '.join(said)}."]
    if (
        all(_bits(stages[f"dare{share}"]) < _bits(stages[f"dare{share}_unbiased"]) for share in (50, 75, 90))
        is False
    ):
        text = [f"The scale that is solved for and the paper's, bits/byte: {', '.join(said)}."]
    if cheaper:
        text.append(
            f"A random choice is beaten in fewer bytes {', '.join(cheaper)}: the codecs know which entries matter, "
            "and a free mask does not make up for that. Use `EcqCodec` for a difference, as for weights."
        )
    else:
        text.append("No other codec has fewer bits/byte in as few bytes as `DareCodec`.")
    return [" ".join(text)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(DATA_IN_RECIPES))
    parser.add_argument("--runs", type=Path, default=Path("runs/deltas"))
    parser.add_argument("--output", type=Path, default=Path("docs/deltas.md"))
    parser.add_argument(
        "--page", action="store_true", help="write the page of what there is, and run nothing"
    )
    given = parser.parse_args(arguments)
    if not given.page:
        prepare(given.data, given.runs)
        run_recipe(given.runs, "over", recipe(given.data, given.runs, base=True))
        run_recipe(given.runs, "alone", recipe(given.data, given.runs, base=False))
    given.output.write_text(page(given.runs), encoding="utf-8")
    print(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
