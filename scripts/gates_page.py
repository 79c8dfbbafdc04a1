"""Run the three recipes of gates and write ``docs/gates.md``, with the figures of ``gate_simulation.py``.

python scripts/gates_page.py --data ../shared/data
python scripts/gates_page.py --page

runs/gates/simulation/*.json, runs/gates/{passes,retried,rolled_back}/record.json, the rules of retries -> the page
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.recommendation import rules_markdown, steps_markdown
from fulgurite.cli.main import main as fulgurite
from fulgurite.codecs import (
    Codec,
    EcqCodec,
    HyperCodec,
    LowRankCodec,
    SeedLMCodec,
    SparseCodec,
    UniformCodec,
    VptqCodec,
)
from fulgurite.reporting.hardware import recommend_hardware
from fulgurite.reporting.record import read_record
from fulgurite.reporting.table import markdown_rows, markdown_table
from fulgurite.reporting.units import UNKNOWN

REPOSITORY = Path(__file__).resolve().parents[1]
BENCHMARKS = (
    "mmlu",
    "gsm8k",
    "humaneval",
    "hellaswag",
    "arc_easy",
    "arc_challenge",
    "truthfulqa",
    "winogrande",
)
ENDS = {"passes": "Passed", "retried": "Turned down, retried, passed", "rolled_back": "Rolled back"}
SETTINGS: tuple[Codec, ...] = (
    EcqCodec(rate=3.0),
    UniformCodec(bits=4, group_size=128),
    UniformCodec(bits=4, group_size=32),
    SeedLMCodec(),
    HyperCodec(trajectory="grid", num_points=1600),
    VptqCodec(),
    SparseCodec(sparsity=0.5),
    LowRankCodec(energy=0.9),
)
"""One setting of each codec, for the table of their steps."""

HEAD = """\
# Gates

What a gate decides by, how often it errs, and what follows a rejection. Its settings are in [cascade.md](cascade.md).

## What is asked

1. *Stage*: the weighted mean of the retention against the last level has a lower bound that reaches what it needs.
2. *Cumulative*: the same against the reference.
3. *Floor*: no measure is under the floor by itself.

A measure takes part where the reference is surely better than chance on it: by the bootstrap, and, where items are
right or wrong, as it would be improbable of a guess (binomial test: two of two right say little). Holm's correction is
over all measures: of eight benchmarks at chance one would otherwise look better than it in a third of runs. Where none
is, a run says so before its first stage and ends; `--allow-uninformative` lets it go on.

Many benchmarks make a gate reject more often, whatever the stage does. Two things keep that at bay:

- *Weights.* A measure whose retention has a larger standard error than the question allows counts less in the means:
  by the square of (what is allowed / what it has). All measures that are sure enough count alike. Weights come from the
  reference alone, before there is a candidate.
- *Floor by test.* A measure with so few items that harmless stages would fail a bound fails the floor only where its
  retention is under it *and* the loss is real: McNemar's test (mid-p, one-sided) where items are right or wrong, the
  paired bootstrap elsewhere, with Holm's correction over measures.

Before the first stage a run prints the smallest loss that its items tell from none, and for each stage that would turn
down more than 5 % of stages which lose nothing, how many items would mend that. Both assume that nine tenths of the
items' variance are common to both networks, and that measures move together where they are of as many items and the
reference's results on them are correlated. The record has them under `reference.plan`.

## Looks

With `gate: {looks: 4}` a verdict is looked for after each quarter of the items, in an order drawn by the seed, and the
rest is not measured once it is sure. The bounds of each look are wider than those of one look, so that all looks
together err as often as one: Lan and DeMets' spending of O'Brien and Fleming's type
([1983](https://doi.org/10.1093/biomet/70.3.659)). Language models judged by windows can do it; elsewhere all items
are seen, and a note says why. Off by default: a score of part of the items is less exact, though the verdict is not.

## Checks of behaviour

A gate compares with the reference; a check asks for a share by itself. Off by default, asked for by a recipe:

```yaml
model: {benchmarks: {names: [arc_easy, alignment], data_dir: data}}
cascade:
  checks: {edge_of_chaos: arc_easy, alignment: true}
```

| key of `checks` | default | meaning |
| --- | --- | --- |
| `edge_of_chaos` | none | a measure whose accuracy must stay within bounds; any that the gate has, `next_token` too |
| `edge_of_chaos_within` | `[0.70, 0.80]` | the bounds |
| `alignment` | false | for each of the four rules ([pairs](benchmarks-lm.md)), hold the share of aligned ends to: |
| `alignment_least` | 0.65 | share needed after a stage |
| `alignment_least_last` | 0.60 | share needed after the last stage of the recipe |
| `strict` | false | turn a stage down for every check that it fails |

No compression is asked to repair what the reference lacks. So a stage is turned down where it falls *below* a bound
that the reference reaches. Where the reference is below itself, the run says so before its first stage, and the check
is a remark. *Above* the edge of chaos nothing is lost, but the set has become too easy to show a loss: a remark as
well. With `strict` each of these turns a stage down; one that is only above is not tried again, as more bits mend
nothing there.

A check goes by the share itself, not by a bound: its interval, and whether all of it lies on that side, are told
beside it (fifty pairs: 0.13 to each side). So a reference just over a bound has stages turned down by chance, which
lose nothing. Looks are not taken where there are checks. What is checked is a measure of the gate as well.
"""


def rate(value: float) -> str:
    """A share of runs."""
    return f"{100 * value:.1f} %"


def simulation_section(found: dict[str, Any]) -> str:
    """How often simulated stages are rejected."""
    rows = [row for row in found["rows"] if not isinstance(row["kept"], dict)]
    alone = [row for row in found["rows"] if isinstance(row["kept"], dict)]
    main_rows = []
    for row in rows:
        truth = "nothing" if row["kept"] == 1 else f"{100 * (1 - row['kept']):.0f} points"
        main_rows.append(
            [
                row["kind"],
                f"{100 * row['needed']:.0f} %",
                truth,
                rate(row["rejected"]),
                rate(row["items_seen"]),
                str(row["runs"]),
            ]
        )
    head = ["measures", "needed", "truly lost", "rejected", "items seen", "simulated"]
    table = markdown_rows(head, main_rows, [False, True, True, True, True, True])
    return f"""\
## How often it errs

Stages whose true loss is known, judged by this gate (`scripts/gate_simulation.py`). *Text* is {found["windows"]}
windows of TinyStories (bits per byte and next-token accuracy) with the item noise of stories260K in 4 bits.
*Benchmarks* are MMLU, GSM8K, HumanEval, HellaSwag, ARC easy and challenge, TruthfulQA and WinoGrande: right and wrong
answers drawn with the scores of a network of 7 to 8 billion weights, of which {100 * found["changed"]:.0f} % change
under compression though nothing is lost; *full* are their test splits, *slices* the smaller files of the tests (570
of MMLU, 1,000 of HellaSwag). {found["resamples"]} bootstrap draws, where a run has 2,000. The *earlier rule* weighed
all measures alike and held each to the floor by its bound.

{table}

{boundary(rows)}

The goals were: a loss of twice what is allowed is caught in 95 % of runs, nothing lost is rejected in at most 5 %,
looks take at most half of the items on both. {goals(rows)}
{one_alone(alone)}"""


def boundary(rows: Sequence[dict[str, Any]]) -> str:
    """Whether a loss of exactly what is allowed is rejected as often as the bounds say, given the number of runs."""
    from scipy.stats import binom

    exact = [row for row in rows if row["kept"] == row["needed"] and "earlier" not in row["kind"]]
    if not exact:
        return ""
    level = 1 - 0.05 / len(exact)  # Bonferroni: none of them outside in 95 % of simulations
    outside, ranges = [], set()
    for row in exact:
        low, high = (count / row["runs"] for count in binom.interval(level, row["runs"], 0.95))
        ranges.add(f"{rate(low)} to {rate(high)} of {row['runs']:,}")
        if not low <= row["rejected"] <= high:
            outside.append(
                f"{row['kind']} needing {100 * row['needed']:.0f} % ({rate(row['rejected'])} of {row['runs']:,})"
            )
    shares = [row["rejected"] for row in exact]
    found = (
        "all lie within, so what differs from 95 % is no more than the noise of so many runs"
        if not outside
        else f"outside, so that it is no noise of the simulation: {'; '.join(outside)}"
    )
    return textwrap.fill(
        "Where exactly what is allowed is lost, bounds at 95 % are to reject 95 % of stages. Found are "
        f"{rate(min(shares))} to {rate(max(shares))}. If they do, so many runs give "
        f"{', or '.join(sorted(ranges, key=lambda text: int(text.split()[-1].replace(',', ''))))} runs, in all of the "
        f"{len(exact)} rows at once in 95 % of simulations: {found}.",
        width=118,
        break_on_hyphens=False,
    )


def one_alone(alone: Sequence[dict[str, Any]]) -> str:
    """Benchmarks that collapse while the others stay."""
    if not alone:
        return ""
    single = markdown_rows(
        ["benchmark", "rejected"],
        [[next(iter(row["kept"])), rate(row["rejected"])] for row in alone],
        [False, True],
    )
    return f"""
One benchmark alone falls to 60 % of what the reference has above chance, twice what the floor allows, the others as
they were; a stage that needs 90 %, slices, {alone[0]["runs"]} simulated stages each:

{single}

{weak(alone)}
"""


def goals(rows: Sequence[dict[str, Any]]) -> str:
    """Whether the goals are met, from the numbers."""
    ours = [row for row in rows if "earlier" not in row["kind"]]
    unharmed = [row for row in ours if row["kept"] == 1]
    doubled = [row for row in ours if row["kept"] < row["needed"] - 1e-9]
    if not unharmed or not doubled:
        return "Too little is simulated yet to say whether they are met."
    harmless = max(unharmed, key=lambda row: row["rejected"])
    least = min(doubled, key=lambda row: row["rejected"])
    clear = [row for row in ours if "looks" in row["kind"] and abs(row["kept"] - row["needed"]) > 1e-9]
    most = max(clear, key=lambda row: row["items_seen"]) if clear else None
    met = (
        harmless["rejected"] <= 0.05
        and least["rejected"] >= 0.95
        and (most is None or most["items_seen"] <= 0.5)
    )
    found = (
        f"Found: at least {rate(least['rejected'])} of the former caught, at most {rate(harmless['rejected'])} of the "
        f"latter rejected ({harmless['kind']}, needing {100 * harmless['needed']:.0f} %)"
    )
    if most is not None:
        found += f", {rate(most['items_seen'])} of the items at most"
    return f"{found}. {'All are met.' if met else 'Not all are met.'}"


def weak(alone: Sequence[dict[str, Any]]) -> str:
    """Which benchmarks are too small to show their own collapse."""
    missed = [next(iter(row["kept"])) for row in alone if row["rejected"] < 0.95]
    names = [next(iter(row["kept"])) for row in alone]
    absent = [name for name in BENCHMARKS if name not in names]
    end = f" Not simulated for this page: {', '.join(absent)}." if absent else ""
    if not missed:
        return f"Each of these shows its own collapse in at least 95 % of runs.{end}"
    return f"Too few items to show their own collapse in 95 % of runs: {', '.join(missed)}.{end}"


def run_section(name: str, title: str, folder: Path) -> str:
    """What one recipe came to, from its record."""
    record = read_record(folder)
    parts = [f"### {title}", f"`fulgurite compress --config configs/recipes/gate_{name}.yaml`"]
    parts.append(markdown_table(record))
    rows = []
    for stage in record["stages"]:
        for attempt in stage["tries"]:
            effect, looks = attempt.get("effect"), attempt.get("looks")
            gained = UNKNOWN if effect is None else f"{effect['num_bytes']:+,} bytes"
            if effect is not None and effect["retention"] is not None:
                gained += f", {100 * effect['retention']:+.1f} points"
            seen = "all" if looks is None else f"{looks['seen']} of {looks['of']}"
            changes = ", ".join(attempt["changes"]) or UNKNOWN
            end = attempt["gate"]["reason"]
            if attempt["gate"]["severity"] != "none":
                end += f" ({attempt['gate']['severity']})"
            rows.append([stage["name"], str(attempt["number"]), changes, gained, seen, end])
    head = ["stage", "try", "changed", "effect", "items", "verdict"]
    parts.append(markdown_rows(head, rows, [False, True, False, False, True, False]))
    efficiency = record.get("efficiency")
    if efficiency is not None:
        found = recommend_hardware(efficiency.get("artifact", efficiency["reference"]))
        parts.append(f"Hardware: {found['class']} ({found['why']}).")
    parts += [note for note in record["notes"]]
    return "\n\n".join(parts) + "\n"


def retries_section() -> str:
    """The rules of retries, from the code."""
    return f"""\
## After a rejection

What the next try changes follows from what failed, how badly, and where the error is. *Severe* is a loss of more than
twice what is allowed, a measure under the floor by its own number, a score that is no number, or more than one check of
behaviour failed; the rest is *mild*. A group of weights stands out where its error is at least twice that of all
others, in the stage's own metric: a tower of an image-text network, attention, MLP, embedding, the first or the last
layer, if it is at most half of the weights.

{rules_markdown()}

{steps_markdown(SETTINGS)}

Where bits are allocated, the limit is raised and the allocation decides who gets them. Each try, what it changed and
what that did lie in the record (`stages[].tries[].changes`, `effect`). `cascade.retries` is how many further tries.
A try is not begun if it would not end within `cascade.time_budget_minutes`, by the time that the last one took.
"""


def page(runs: Path) -> str:
    """The whole page."""
    parts = [HEAD]
    found = read_simulation(runs / "simulation")
    if found is not None:
        parts.append(simulation_section(found))
    parts.append(retries_section())
    ends = [
        run_section(name, title, runs / name)
        for name, title in ENDS.items()
        if (runs / name / "record.json").exists()
    ]
    if ends:
        parts.append(
            "## Three ends\n\nOf stories260K, a Llama of 260 thousand weights, on 256 windows of TinyStories, under "
            "the gate's default thresholds. Times are of cores that other work shared.\n\n" + "\n".join(ends)
        )
    parts.append(
        "This page is written by `make gates`: the simulation, the three runs, then `scripts/gates_page.py`.\n"
    )
    return "\n".join(parts)


def read_simulation(folder: Path) -> dict[str, Any] | None:
    """Settings and rows of all scenarios that are there; ``None`` where there are none.

    Raises:
        ValueError: If two were simulated with different settings.
    """
    files = sorted(folder.glob("*.json"))
    contents = [json.loads(file.read_text()) for file in files]
    for file, content in zip(files, contents, strict=True):
        if content["settings"] != contents[0]["settings"]:
            raise ValueError(
                f"{file}: expected the settings of {files[0].name}, {contents[0]['settings']}, "
                f"found {content['settings']}; simulate it anew"
            )
    if not contents:
        return None
    order = ("text", "text, looks", "benchmarks, full", "benchmarks, slices")
    rows = [content["row"] for content in contents]
    rows.sort(key=lambda row: (order.index(_kind(row)), "earlier" in row["kind"], -row["needed"], _loss(row)))
    return {**contents[0]["settings"], "rows": rows}


def _loss(row: dict[str, Any]) -> float:
    """What is truly lost; of one benchmark alone its place among them."""
    kept = row["kept"]
    return BENCHMARKS.index(next(iter(kept))) if isinstance(kept, dict) else 1 - float(kept)


def _kind(row: dict[str, Any]) -> str:
    return str(row["kind"]).removesuffix(", earlier rule")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with models/ and text/")
    parser.add_argument("--runs", type=Path, default=Path("runs/gates"))
    parser.add_argument("--output", type=Path, default=Path("docs/gates.md"))
    parser.add_argument("--page", action="store_true", help="run nothing, write the page of what is there")
    given = parser.parse_args(arguments)
    for name in ENDS if not given.page else ():
        recipe = REPOSITORY / f"configs/recipes/gate_{name}.yaml"
        flags = ["--output_dir", str(given.runs / name), "--cascade.cache_dir", str(given.runs / "cache")]
        if given.data is not None:
            flags += ["--model.source", str(given.data / "models/stories260K")]
            flags += ["--data.data_dir", str(given.data / "text")]
        status = fulgurite(["compress", "--config", str(recipe), *flags, "--cascade.threads", "1"])
        if status not in (0, 3):
            return status
    given.output.write_text(page(given.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
