"""Rate and distortion of every codec, beside the Gaussian bound: writes ``docs/codecs.md`` and its plot.

    python scripts/codec_table.py --quick --output /tmp/codecs.md
    python scripts/codec_table.py --model models/books6m --output docs/codecs.md
    python scripts/codec_table.py --model models/books6m --output docs/codecs.md --only sparse low_rank

Each setting is measured on N(0, 1) weights, on Student-t weights (4 degrees of freedom: outliers) and,
with ``--model``, on all matrices of a network, read from its safetensors files. Slow codecs see a sample
of the rows, as the page says. With ``--only`` some codecs are measured, and what the page says of the others stays.
A codec without an entry in ``SETTINGS`` is measured with its defaults.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import platform
import re
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fulgurite._version import __version__
from fulgurite.codecs import CODECS, Codec, EcqCodec, UniformCodec, decode, nmse

_SAMPLE = 1 << 15  # weights: SeedLM tries 65535 seeds for each block

# codec -> (curve in the plot, what changes along it, the codec's arguments, weights measured or None for all)
SETTINGS: dict[str, list[tuple[str, str, dict[str, Any], int | None]]] = {
    "ecq": [
        (
            "ecq, scalar" if states == 1 else f"ecq, {states} states",
            f"{rate:g} bits",
            {"rate": rate, "states": states},
            None,
        )
        for states, rates in (
            (1, (0.25, 0.5, 1.0, 2.0, 4.0)),
            (8, (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)),
            (256, (1.0, 2.0, 3.0, 4.0)),
        )
        for rate in rates
    ],
    "fp16": [("fp16", "", {}, None)],
    "uniform": [
        *[("uniform", f"{b} bits, groups of 128", {"bits": b}, None) for b in range(2, 9)],
        *[
            ("uniform, range searched", f"{b} bits, groups of 128", {"bits": b, "search": True}, None)
            for b in (2, 3, 4)
        ],
        *[
            (
                "uniform, entropy-coded",
                f"{b} bits, a step per 1024",
                {"bits": b, "group_size": 1024, "symmetric": True, "entropy": True},
                None,
            )
            for b in range(3, 8)
        ],
    ],
    "sparse": [
        *[
            ("sparse, 4 bits", f"{100 * share:g} % zeros", {"sparsity": share, "bits": 4}, None)
            for share in (0.9, 0.8, 0.7, 0.5, 0.3)
        ],
        *[
            ("sparse, 4 bits in groups", f"{pattern}", {"pattern": pattern, "bits": 4}, None)
            for pattern in ("1:4", "2:4", "3:4")
        ],
        ("sparse, 16 bits", "50 % zeros", {"sparsity": 0.5}, None),
    ],
    "low_rank": [
        *[("low rank, 16 bits", f"{b} bits", {"bits_per_weight": b}, None) for b in (1, 2, 4)],
        *[
            (
                "low rank, ecq of 4 bits",
                f"{b} bits",
                {"bits_per_weight": b, "inner": EcqCodec(rate=4, states=8)},
                None,
            )
            for b in (1, 2, 3)
        ],
    ],
    "low_rank_plus": [
        (
            "ecq and rank 8",
            f"{b:g} bits and the correction",
            {
                "rank": 8,
                "iterations": 1,
                "inner": EcqCodec(rate=b, states=8),
                "factors": UniformCodec(bits=8),
            },
            None,
        )
        for b in (1.0, 2.0, 3.0)
    ],
    "seedlm": [
        ("seedlm", "blocks of 12, 4 latents", {"block_size": 12, "latent_size": 4}, _SAMPLE),
        ("seedlm", "blocks of 8, 3 latents", {"block_size": 8, "latent_size": 3}, _SAMPLE),
    ],
    "vptq": [
        ("vptq", "pairs, 16 codewords", {"vector_length": 2, "codebook_size": 16}, None),
        ("vptq", "pairs, 64 codewords", {"vector_length": 2, "codebook_size": 64}, None),
        ("vptq", "pairs, 256 codewords", {"vector_length": 2, "codebook_size": 256}, None),
        ("vptq, fours", "fours, 16 codewords", {"vector_length": 4, "codebook_size": 16}, None),
        ("vptq, fours", "fours, 256 codewords", {"vector_length": 4, "codebook_size": 256}, None),
    ],
    "cluster": [
        ("cluster", "64 learned rows", {"clusters": 64}, None),
        ("cluster", "512 learned rows", {"clusters": 512}, None),
    ],
    "hyper": [
        ("hyper ergodic", "64 points a pair, 1 class", {"num_points": 64, "num_classes": 1}, None),
        ("hyper ergodic", "400 points a pair, 1 class", {"num_points": 400, "num_classes": 1}, None),
        ("hyper ergodic", "1600 points a pair, 3 classes", {}, None),
        (
            "hyper grid",
            "64 points a pair, 1 class",
            {"trajectory": "grid", "num_points": 64, "num_classes": 1},
            None,
        ),
        ("hyper grid", "1600 points a pair, 3 classes", {"trajectory": "grid"}, None),
        (
            "hyper grid, entropy-coded",
            "64 points a pair",
            {"trajectory": "grid", "num_points": 64, "entropy": True},
            None,
        ),
        (
            "hyper grid, entropy-coded",
            "256 points a pair",
            {"trajectory": "grid", "num_points": 256, "entropy": True},
            None,
        ),
        *[
            (f"hyper {curve}, cut", f"degree {d} in 16, 8 bits", {"trajectory": curve, "degree": d}, None)
            for curve in ("polynomial", "fourier")
            for d in (3, 7, 11)
        ],
        *[
            (
                f"hyper {curve}, complete",
                f"degree 15 in 16, {b} bits",
                {"trajectory": curve, "degree": 15, "coefficient_bits": b},
                None,
            )
            for curve in ("polynomial", "fourier")
            for b in (2, 4, 6)
        ],
    ],
}

# codec -> one line for the reader
ABOUT = {
    "fp16": "16-bit floats: what a weight becomes that no stage selects.",
    "uniform": (
        "Evenly spaced levels for a group of weights, the baseline of all others "
        "([Jacob et al. 2018](https://arxiv.org/abs/1712.05877)). Its codes can be entropy-coded."
    ),
    "ecq": (
        "A trellis quantiser whose output is entropy-coded, at any real rate "
        "([Fischer and Wang 1992](https://doi.org/10.1109/18.119687); steps and feedback as "
        "[WaterSIC 2026](https://arxiv.org/abs/2603.04956) has them). Here without a hessian, as pure coding."
    ),
    "cluster": (
        "Rows that are shared: for tables of token vectors, with the tokens' frequencies as weights. Weights of layers "
        "have no rows alike, which shows here."
    ),
    "sparse": (
        "The smallest weights become zero; a coded mask tells the others, which have 4 or 16 bits "
        "([Han et al. 2016](https://arxiv.org/abs/1510.00149)). Here without a hessian, as pure coding."
    ),
    "low_rank": (
        "A product of two thin matrices ([Wang et al. 2025](https://arxiv.org/abs/2403.07378)), its rank what fits "
        "into the bits. Here without a hessian, as pure coding: random matrices have no low rank, trained "
        "ones little."
    ),
    "low_rank_plus": (
        "A code, and a matrix of low rank that corrects what it got wrong most "
        "([Zhang et al. 2024](https://arxiv.org/abs/2402.02446)). Here without a hessian, as pure coding."
    ),
    "seedlm": (
        "Blocks of weights as a seed of a shift register and a few latents; no codebook is stored "
        "([Shafipour et al. 2024](https://arxiv.org/abs/2410.10714))."
    ),
    "vptq": (
        "Vectors of weights as indices into a learned codebook "
        "([Liu et al. 2024](https://arxiv.org/abs/2409.17066)). Here without a hessian, as pure coding."
    ),
    "hyper": (
        "A few weights as one place on a trajectory "
        "([Fan et al. 2024](https://arxiv.org/abs/2409.00592)); polynomials and cosines are our own variants."
    ),
}

PAGE = Template(
    """# Codecs: measured rate and distortion

A codec is a lossy map from one weight to bytes and back. This page shows what each buys: stored bits per
weight (codes, scales, codebooks and tables, nothing left out) against the normalised squared error
`NMSE = |W - W_hat|^2 / |W|^2`. No code for independent Gaussian weights can do better than
`NMSE = 2^(-2 bits)`, 6.02 dB a bit; *gap* is how far a setting lies above that line at its own rate.
It is pure coding of weights: no calibration data, no fine-tuning. What a network loses is another
question, but at one rate a smaller NMSE is a better start.

Two things stand out. The shortest way to a small error is even rounding and an entropy coder, and a trellis
(`ecq`) wins back most of what rounding leaves to the bound, at every rate. And weights are noise to a smooth
curve: a polynomial or a cosine series cut to half of its degrees loses half of the energy, of trained
weights as of random ones.

![NMSE against bits per weight]($plot)

## How to read it

- Rounding and an entropy coder lie 1.53 dB (a quarter of a bit) above the bound at any high rate. A code
  that is further away has to earn its place by something else: speed, no tables, a fixed length.
- Student-t weights ($freedom degrees of freedom) have outliers, and so do trained ones. Gaussian weights
  are the hardest of one variance, so other sources may come below the line.
$network_note- $sampled

"""
)


@dataclass(frozen=True)
class Point:
    """What one setting takes and leaves on one set of weights."""

    bits: float
    nmse: float

    @property
    def gap_db(self) -> float:
        """Decibels above the Gaussian bound at the same rate."""
        return 10 * math.log10(self.nmse) + 20 * math.log10(2) * self.bits if self.nmse else -math.inf


@dataclass(frozen=True)
class Row:
    """One setting and its point on each source, by the source's name."""

    codec: str
    curve: str
    setting: str
    sample: int | None
    points: Mapping[str, Point]


def measure(codec: Codec, weights: Mapping[str, Tensor], sample: int | None = None) -> Point:
    """Rate and distortion over several weights, each counted by its size.

    Args:
        codec: Sees all weights first (``bind``), so that a shared codebook is counted once.
        weights: By name.
        sample: Measure about this many weights: evenly spaced rows, at least one of each weight.
    """
    total = sum(weight.numel() for weight in weights.values())
    rows = {name: _rows(weight, sample, total) for name, weight in weights.items()}
    bound = codec.bind(rows)
    bits = error = 0.0
    seen: set[bytes] = set()
    for name, weight in rows.items():
        encoded = bound[name].encode(weight)
        num_bytes = 0
        for part in encoded.tensors.values():
            digest = hashlib.sha256(part.contiguous().view(torch.uint8).numpy().tobytes()).digest()
            num_bytes += 0 if digest in seen else part.nbytes  # an artefact stores equal parts once
            seen.add(digest)
        share = weights[name].numel() / total
        bits += share * 8 * num_bytes / weight.numel()
        error += share * nmse(weight, decode(encoded))
    return Point(bits, error)


def _rows(weight: Tensor, sample: int | None, total: int) -> Tensor:
    if sample is None or sample >= total:
        return weight
    count = max(1, len(weight) * sample // total)
    return weight[torch.linspace(0, len(weight) - 1, count).round().long()]


def synthetic(quick: bool, seed: int, freedom: int = 4) -> dict[str, dict[str, Tensor]]:
    """The two synthetic sources, of unit variance each."""
    generator = np.random.default_rng(seed)
    shape = (16, 256) if quick else (256, 1024)
    gaussian = generator.standard_normal(shape)
    tailed = generator.standard_t(freedom, shape) / math.sqrt(freedom / (freedom - 2))
    return {
        "Gaussian": {"weight": torch.from_numpy(gaussian).float()},
        f"Student-t ({freedom})": {"weight": torch.from_numpy(tailed).float()},
    }


def network_matrices(folder: Path) -> dict[str, Tensor]:
    """All matrices of a network in a transformers folder, as float32.

    Raises:
        FileNotFoundError: If the folder has no safetensors file.
    """
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} must hold *.safetensors files, got none")
    weights = {name: weight for file in files for name, weight in load_file(file).items()}
    return {name: weight.float() for name, weight in weights.items() if weight.dim() == 2}


def measure_all(
    sources: Mapping[str, Mapping[str, Tensor]], quick: bool, only: Collection[str] = ()
) -> list[Row]:
    """Every setting of every codec in ``CODECS`` on every source; the quick way takes one of each curve.

    Args:
        sources: Weights by name, by the source's name.
        quick: One setting of each curve, and small samples.
        only: Names of codecs; all by default.
    """
    rows: list[Row] = []
    for name, codec_class in CODECS.items():
        if only and name not in only:
            continue
        curves: set[str] = set()
        for curve, setting, arguments, sample in SETTINGS.get(name, [(name, "defaults", {}, _SAMPLE)]):
            if quick and curve in curves:
                continue
            curves.add(curve)
            codec = codec_class(**arguments)
            sample = 512 if quick and sample == _SAMPLE else sample
            started = time.perf_counter()
            points = {source: measure(codec, weights, sample) for source, weights in sources.items()}
            rows.append(Row(name, curve, setting, sample, points))
            print(f"{curve}: {setting} ({time.perf_counter() - started:.1f} s)", file=sys.stderr)
    return rows


def sections_of(text: str) -> dict[str, str]:
    """What a page says of each codec, by name."""
    parts = [part.partition("\n\n") for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    return {name: content for name, _, content in parts if name in CODECS}


def rows_of(codec: str, section: str) -> list[Row]:
    """The rows of a section, as far as its digits go: enough for the plot."""
    lines = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    sources = [cell.removesuffix(": bits") for cell in lines[0][1::3]]
    rows = []
    for label, *cells in lines[2:]:
        curve, _, setting = label.removesuffix(" \\*").partition(": ")
        values = [cells[3 * place : 3 * place + 2] for place in range(len(sources))]
        points = {name: Point(*map(float, each)) for name, each in zip(sources, values, strict=True)}
        rows.append(Row(codec, curve, setting, _SAMPLE if label.endswith("*") else None, points))
    return rows


def page(rows: list[Row], plot: str, command: str, seed: int, kept: Mapping[str, str] | None = None) -> str:
    """The Markdown page; what is ``kept`` of codecs stays as it is, its rows are among ``rows``."""
    kept = kept or {}
    sources = list(rows[0].points)
    network = sources[2] if len(sources) > 2 else None
    note = (
        f"- {network}: all matrices of that network, NMSE and bits averaged by size. Each row has its own\n"
        "  variance there, which a scale per row or group makes use of and the line does not know.\n"
        if network
        else ""
    )
    samples = sorted({(row.codec, row.sample) for row in rows if row.sample is not None})
    listed = ", ".join(f"`{codec}` {sample:,}" for codec, sample in samples)
    sampled = (
        "Where a star stands, a sample of evenly spaced rows was measured, of about so many weights:\n"
        f"  {listed}."
        if samples
        else "All weights were measured."
    )
    freedom = next(source for source in sources if source.startswith("Student")).split("(")[1].rstrip(")")
    text = PAGE.substitute(plot=plot, freedom=freedom, network_note=note, sampled=sampled)
    for codec in dict.fromkeys(row.codec for row in rows):
        if codec in kept:
            text += f"## {codec}\n\n{kept[codec].strip()}\n\n"
            continue
        summary = (CODECS[codec].__doc__ or "").strip().splitlines()
        text += f"## {codec}\n\n{ABOUT.get(codec) or (summary[0] if summary else '')}\n\n"
        text += _table([row for row in rows if row.codec == codec], sources) + "\n"
    anew = ", ".join(dict.fromkeys(row.codec for row in rows if row.codec not in kept))
    later = f", {anew} later than the others" if kept else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return text + (
        f"## How this page was made\n\n`{command}`{later}, fulgurite {__version__}, {versions}, seed {seed}.\n"
    )


def _table(rows: list[Row], sources: list[str]) -> str:
    head = ["", *[f"{source}: {what}" for source in sources for what in ("bits", "NMSE", "gap, dB")]]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        label = f"{row.curve}: {row.setting}" if row.setting else row.curve
        cells = [label + (" \\*" if row.sample is not None else "")]
        for point in row.points.values():
            cells += [
                f"{point.bits:.2f}",
                f"{point.nmse:.2g}",
                f"{point.gap_db:.2f}" if point.nmse else "exact",
            ]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def draw(rows: list[Row], path: Path) -> None:
    """NMSE against bits, one panel a source, with the bound; points above 9 bits are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sources = list(rows[0].points)
    curves = list(dict.fromkeys(row.curve for row in rows if min(p.bits for p in row.points.values()) < 9))
    figure = Figure(figsize=(4.2 * len(sources), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sources), sharey=True, squeeze=False)[0]
    for panel, source in zip(panels, sources, strict=True):
        rates = np.linspace(0.8, 8.4, 2)
        panel.semilogy(rates, 4.0**-rates, color="black", linewidth=1, label="Gaussian bound")
        for number, curve in enumerate(curves):
            points = sorted(
                (p.bits, p.nmse) for row in rows if row.curve == curve for p in [row.points[source]]
            )
            style = ("o-", "s--")[number // 10 % 2]  # ten colours, then again in another style
            panel.semilogy(*zip(*points, strict=True), style, label=curve, markersize=4, linewidth=1)
        panel.set(title=source, xlabel="bits per weight", xlim=(0.8, 8.6))
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="NMSE", ylim=(1e-5, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="transformers folder with safetensors files")
    parser.add_argument("--output", type=Path, default=Path("docs/codecs.md"))
    parser.add_argument("--quick", action="store_true", help="small weights, one setting a curve")
    parser.add_argument("--only", nargs="+", default=[], choices=list(CODECS), help="codecs to measure anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="on a busy machine several only wait")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    sources: dict[str, dict[str, Tensor]] = synthetic(given.quick, given.seed)
    command = "python scripts/codec_table.py" + " --quick" * given.quick
    if given.model:
        sources[given.model.name] = network_matrices(given.model)
        command += f" --model {given.model.name}"
    kept: dict[str, str] = {}
    if given.only:
        if not given.output.is_file():
            parser.error(f"--only needs a page to add to, {given.output} is not there")
        kept = {
            name: text
            for name, text in sections_of(given.output.read_text(encoding="utf-8")).items()
            if name not in given.only
        }
    measured = measure_all(sources, given.quick, given.only)
    rows = [row for name, text in kept.items() for row in rows_of(name, text)] + measured
    rows.sort(key=lambda row: list(CODECS).index(row.codec))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    plot = given.output.with_name(f"{given.output.stem}_rate_distortion.png")
    draw(rows, plot)
    given.output.write_text(page(rows, plot.name, command, given.seed, kept), encoding="utf-8")


if __name__ == "__main__":
    main()
