"""What a network costs, beside what it can do.

    first pictures with their first texts -> adapter.batch -> network, timed -> facts, which no gate decides by

Times and memory are the machine's own, and differ a little from run to run; operations and parameters do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from fulgurite.evaluation.benchmarks.base import Benchmark, need_captions
from fulgurite.evaluation.benchmarks.efficiency import measure_efficiency
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.models.adapter import ImageTextAdapter

_FACTS = (
    "parameters",
    "flops",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "items_per_second",
    "peak_memory_bytes",
)


@dataclass(frozen=True)
class Cost(Benchmark):
    """Gives the facts of ``Efficiency``: parameters, operations, percentiles of time, throughput and peak memory.

    An item is a picture with a text, in one pass of both towers. What an artefact takes on disk, a run's record says.

    Args:
        batch_size: Pictures of a pass; 1 for latency as one user sees it.
        repeats: Timed passes.
        warmup: Passes before them.

    Raises:
        ValueError: If a number is out of range.
    """

    batch_size: int = 1
    repeats: int = 20
    warmup: int = 3

    def __post_init__(self) -> None:
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("repeats", self.repeats, 1),
            ("warmup", self.warmup, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    @override
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        need_captions(self, split)

    @override
    def evaluate(self, view: View) -> Evaluation:
        self.check(view.adapter, view.split)
        chosen = view.indices[: self.batch_size]
        texts = [captions[0] for captions in view.captions[: self.batch_size]]
        pixels = view.split.pixels(chosen)
        batch = view.adapter.batch(pixels.to(view.device), view.adapter.tokenize(texts).to(view.device))
        held = sum(part.numel() * part.element_size() for part in view.network.parameters())
        found = measure_efficiency(
            view.network, batch, num_bytes=held, repeats=self.repeats, warmup=self.warmup
        )
        return Evaluation((), {name: found.facts[name] for name in _FACTS})
