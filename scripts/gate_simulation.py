"""How often gates err: stages whose true loss is known, judged many times. Its numbers are in ``docs/gates.md``.

    python scripts/gate_simulation.py --data ../shared/data --runs 200 --output runs/gates/simulation

    population of items -> n drawn items, noise as of compression, a planted loss -> gate -> share rejected, items seen

*text*: bits per byte and next-token accuracy of windows of TinyStories, as measured of stories260K and of the same
network in 4 bits; the item noise is that of those 4 bits, its mean loss taken out and the true one put in.
*benchmarks*: right and wrong answers as of a network of 7 to 8 billion weights. Under compression some change for the
better and as many for the worse where nothing is lost (Dutta et al., "Accuracy is Not All You Need", 2024,
https://arxiv.org/abs/2407.09141); how many is assumed here.

Each scenario leaves a file of its own; one that is there with the same settings is not simulated again, so a run that
was stopped goes on. A loss of exactly what is allowed is simulated five times as often: there the share itself is read.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fulgurite.artifact.files import write_file
from fulgurite.codecs import UniformCodec, decode
from fulgurite.evaluation.gate import Gate
from fulgurite.evaluation.language import evaluate_language
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.retained_share import bounds_of, measure_share
from fulgurite.evaluation.sequential import look_confidences, look_sizes
from fulgurite.models import load_causal_lm, load_tokenizer

CHANGED = 0.05
"""Share of a benchmark's answers that a stage changes without losing any on average."""

AT_BOUNDARY = 5
"""Times as many runs where exactly what is allowed is lost."""


@dataclass(frozen=True)
class Quiz:
    """A benchmark: its size, the size of the slice that tests use, and the reference's score."""

    items: int
    slice: int
    score: float
    chance: float


# sizes of the test splits; scores as published of networks of 7 to 8 billion weights, to within some points
BENCHMARKS = {
    "mmlu": Quiz(14042, 570, 0.65, 0.25),
    "gsm8k": Quiz(1319, 1319, 0.50, 0.0),
    "humaneval": Quiz(164, 164, 0.30, 0.0),
    "hellaswag": Quiz(10042, 1000, 0.79, 0.25),
    "arc_easy": Quiz(2376, 2368, 0.80, 0.25),
    "arc_challenge": Quiz(1172, 1171, 0.52, 0.25),
    "truthfulqa": Quiz(817, 817, 0.36, 0.226),
    "winogrande": Quiz(1267, 1267, 0.74, 0.5),
}

Trio = tuple[list[Measure], list[Measure]]


def draw_benchmarks(seed: int, kept: Mapping[str, float], *, full: bool) -> Trio:
    """Reference and candidate on all benchmarks; ``kept`` is the true retention on each."""
    generator = np.random.default_rng([seed, 7])
    before, after = [], []
    for name, quiz in BENCHMARKS.items():
        n = quiz.items if full else quiz.slice
        right = generator.random(n) < quiz.score
        changed = min(CHANGED, 1.8 * quiz.score, 1.8 * (1 - quiz.score)) / 2
        lost = changed + (1 - kept[name]) * (quiz.score - quiz.chance)
        luck = generator.random(n)
        still = np.where(right, luck >= lost / quiz.score, luck < changed / (1 - quiz.score))
        for measures, items in ((before, right), (after, still)):
            measures.append(
                Measure(name, items.astype(float), np.ones(n), np.full(n, quiz.chance), True, "%")
            )
    return before, after


def draw_text(seed: int, kept: float, population: Trio, windows: int) -> Trio:
    """Reference and candidate on drawn windows; the noise of the population's candidate, another loss."""
    chosen = np.random.default_rng([seed, 11]).integers(0, population[0][0].items.size, windows)
    before, after = [], []
    for reference, candidate in zip(*population, strict=True):
        noise = candidate.items - reference.items
        noise = noise - noise.sum() / reference.weights.sum() * reference.weights
        items = reference.items + noise + (1 - kept) * (reference.chance_items - reference.items)
        before.append(reference.take(chosen))
        after.append(Measure(**{**vars(reference), "items": items}).take(chosen))
    return before, after


def text_population(data: Path, windows: int) -> Trio:
    """Scores of stories260K and of the same in 4 bits, window by window."""
    from datamodules import TextDataModule

    source = data / "models/stories260K"
    texts = TextDataModule(
        train="tinystories", data_dir=str(data / "text"), window=256, max_windows_validation=windows
    )
    texts.use_tokenizer(load_tokenizer(source))
    found = []
    for bits in (None, 4):
        network: Any = load_causal_lm(source).eval()  # type: ignore[no-untyped-call]
        if bits is not None:
            codec = UniformCodec(bits=bits, group_size=64, search=True)
            with torch.no_grad():
                for weight in network.parameters():
                    if weight.dim() == 2:
                        weight.copy_(decode(codec.encode(weight.detach())))
        held_out = texts.evaluation_windows("validation")
        found.append(list(evaluate_language(network, held_out, unigram=texts.unigram()).measures))
    return found[0], found[1]


def judge_once(trio: Trio, needed: float, gate: Gate) -> tuple[bool, float]:
    """Verdict, and share of the items that it took; looks are taken at equal shares of every measure."""
    before, after = trio
    plan = gate.plan(before)
    shares = [size / 1000 for size in look_sizes(1000, gate.looks)]
    levels = look_confidences(tuple(shares), gate.confidence) if gate.looks > 1 else (gate.confidence,)
    for share, level in zip(shares[:-1], levels[:-1], strict=True):
        seen = [[m.take(range(round(share * m.items.size))) for m in side] for side in (before, after)]
        found = gate.look(seen[0], seen[0], seen[1], needed, plan, level)
        if found is not None:
            return found.accepted, share
    last = Gate(**{**vars(gate), "confidence": levels[-1]})
    return last.decide(before, before, after, 0, needed, plan).accepted, 1.0


def judge_earlier(trio: Trio, needed: float, gate: Gate) -> bool:
    """The rule before: all measures alike in the mean, each held to the floor by its bound."""
    plan = gate.plan(trio[0])
    alone = [
        measure_share(ref, ref, cand, exact=True, resamples=gate.resamples, seed=0).alone
        for ref, cand, each in zip(*trio, plan.measures, strict=True)
        if each.informative
    ]
    low = bounds_of(np.mean(alone, axis=0), gate.confidence)[1]
    floors = [bounds_of(draws, gate.confidence)[1] for draws in alone]
    return low >= max(needed, gate.cumulative) and min(floors) >= gate.floor


def _one(
    job: tuple[str, int, float, Any], population: Trio | None, windows: int, resamples: int
) -> tuple[bool, float]:
    kind, seed, needed, kept = job
    if kind.startswith("text"):
        assert population is not None
        trio = draw_text(seed, kept, population, windows)
        return judge_once(trio, needed, Gate(looks=4 if kind == "text, looks" else 1, resamples=resamples))
    each = dict.fromkeys(BENCHMARKS, 1.0) | (
        kept if isinstance(kept, dict) else dict.fromkeys(BENCHMARKS, kept)
    )
    trio = draw_benchmarks(seed, each, full="full" in kind)
    if "earlier" in kind:
        return judge_earlier(trio, needed, Gate(resamples=resamples)), 1.0
    return judge_once(trio, needed, Gate(resamples=resamples))


def scenarios(runs: int) -> list[dict[str, Any]]:
    """What is simulated: kind, needed retention, true retention, number of runs."""
    found: list[dict[str, Any]] = []
    for kind in ("text", "text, looks"):
        found += _cases(kind, (0.98, 0.95, 0.90), runs)
    # one collapses to what loses twice what the floor allows, all others are as they were
    alone = [
        {"kind": "benchmarks, slices", "needed": 0.90, "kept": {name: 0.6}, "runs": max(20, runs // 3)}
        for name in BENCHMARKS
    ]
    for kind, count, more in (
        ("benchmarks, slices", runs, alone),
        ("benchmarks, full", max(20, runs // 2), []),
    ):
        found += [*_cases(kind, (0.98, 0.90), count), *more]
        found.append({"kind": f"{kind}, earlier rule", "needed": 0.98, "kept": 1.0, "runs": count // 2})
    return found


def _cases(kind: str, thresholds: Sequence[float], runs: int) -> list[dict[str, Any]]:
    """Nothing lost, just what is allowed, twice that."""
    return [
        {"kind": kind, "needed": needed, "kept": kept, "runs": AT_BOUNDARY * runs if kept == needed else runs}
        for needed in thresholds
        for kept in (1.0, needed, round(1 - 2 * (1 - needed), 9))
    ]


def name_of(scenario: Mapping[str, Any]) -> str:
    """Of a scenario's file."""
    kept = scenario["kept"]
    kept = f"{next(iter(kept))} {next(iter(kept.values()))}" if isinstance(kept, dict) else kept
    return f"{scenario['kind']} {scenario['needed']} {kept}".replace(",", "").replace(" ", "-")


def simulate(given: argparse.Namespace) -> None:
    """Simulate the scenarios that are not there yet, each to its own file."""
    population = None
    told = {name: getattr(given, name) for name in ("windows", "population", "resamples")}
    settings = {**told, "changed": CHANGED}
    with ProcessPoolExecutor(given.jobs) as pool:
        for scenario in scenarios(given.runs):
            path = given.output / f"{name_of(scenario)}.json"
            text = scenario["kind"].startswith("text")
            if (text and given.data is None) or _is_known(path, scenario, settings):
                continue
            if text and population is None:
                population = text_population(given.data, given.population)
            started = time.perf_counter()
            first = zlib.crc32(name_of(scenario).encode())  # no two scenarios have the same draws
            jobs = [
                (scenario["kind"], first + number, scenario["needed"], scenario["kept"])
                for number in range(scenario["runs"])
            ]
            run = partial(
                _one,
                population=population if text else None,
                windows=given.windows,
                resamples=given.resamples,
            )
            found = list(pool.map(run, jobs, chunksize=4))
            row = {
                **scenario,
                "rejected": float(np.mean([not accepted for accepted, _ in found])),
                "items_seen": float(np.mean([share for _, share in found])),
            }
            seconds = time.perf_counter() - started
            content = json.dumps({"settings": settings, "row": row, "seconds": seconds}, indent=1)
            write_file(path, f"{content}\n".encode())
            print(f"{path.stem}: {row['rejected']:.1%} rejected, {seconds:.0f} s", flush=True)


def _is_known(path: Path, scenario: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the scenario was simulated with these settings."""
    if not path.exists():
        return False
    known = json.loads(path.read_text())
    same = {key: known["row"][key] for key in scenario} == dict(scenario)
    return same and known["settings"] == dict(settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, and write the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with models/ and text/; without it no text")
    parser.add_argument("--runs", type=int, default=200, help="simulated stages of each kind")
    parser.add_argument("--windows", type=int, default=256, help="of text, as in the recipes of stories260K")
    parser.add_argument("--population", type=int, default=1024, help="windows that they are drawn from")
    parser.add_argument(
        "--resamples", type=int, default=500, help="bootstrap draws; a gate's default is 2,000"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, default=Path("runs/gates/simulation"), help="folder")
    given = parser.parse_args(arguments)
    if given.runs < 20:
        parser.error(f"--runs must be at least 20, got {given.runs}")
    given.output.mkdir(parents=True, exist_ok=True)
    simulate(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
