"""All methods, and the rows that each network gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peers.calibrated import Aqlm, AutoRound, GptqModel, LlmCompressor, LlmCompressorAwq, Vptq
from peers.method import Method
from peers.network import Network
from peers.ours import OursByCommand, OursByLibrary
from peers.plain import BitsAndBytes, Hqq, Original, Quanto, TorchAo

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Original(),
        Hqq(),
        Quanto(),
        TorchAo(),
        BitsAndBytes(),
        GptqModel(),
        LlmCompressor(),
        LlmCompressorAwq(),
        AutoRound(),
        Vptq(),
        Aqlm(),
        OursByCommand(),
        OursByLibrary(),
    )
}


@dataclass(frozen=True)
class Row:
    """One line of a network's table: a method with its settings."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the page calls it."""
        return METHODS[self.method].label(self.settings)


def rows(network: Network) -> list[Row]:
    """What every peer is asked to do with a network: 4, 3 and 2 bits where it offers them."""
    group = {"group_size": network.group_size}
    steps = [{"bits": bits, **group} for bits in (4, 3, 2)]
    return [
        *[Row("original", {"dtype": dtype}) for dtype in network.shipped],
        *[Row("hqq", step) for step in steps],
        *[Row("quanto", {"bits": bits}) for bits in (8, 4, 2)],  # picks its groups itself; has no 3 bits
        *[Row("torchao", {"bits": bits, **group}) for bits in (8, 4, 2)],
        Row("bitsandbytes", {"kind": "int8"}),
        *[Row("bitsandbytes", {"kind": "nf4", "double": double}) for double in (False, True)],
        *[Row("gptqmodel", step) for step in steps],
        *[Row("llmcompressor-gptq", step) for step in steps],
        *[Row("llmcompressor-awq", step) for step in steps[:2]],
        *[Row("autoround", {**step, "iters": 200}) for step in steps],
        Row("vptq"),
        Row("aqlm"),
    ]


def _stages(recipe: str, *stages: str) -> list[Row]:
    """Stages of a recipe as they stand, each a row."""
    return [Row("ours", {"recipe": f"configs/recipes/{recipe}.yaml", "stage": stage}) for stage in stages]


def _varied(recipe: str, stage: str, key: str, *values: str | float) -> list[Row]:
    """A recipe's stage with one key of it at several values, each a row."""
    name = f"cascade.stages.{stage}.{key}"
    return [
        Row(row.method, {**row.settings, "overrides": {name: value}})
        for value in values
        for row in _stages(recipe, stage)
    ]


def _budgets(codec: str, metric: str, *budgets: int, **arguments: Any) -> list[Row]:
    """One codec at several budgets in bytes, each a row."""
    settings = {"codec": codec, "metric": metric, **({"arguments": arguments} if arguments else {})}
    return [Row("ours-library", {**settings, "budget": budget}) for budget in budgets]


OURS: dict[str, list[Row]] = {
    "books6m": [
        *_stages("books6m", "seedlm4", "vptq3", "vptq2"),
        *_varied(
            "books6m_budget", "ecq", "allocate.budget", "1.2MB", "1.5MB", "1.85MB", "2.4MB", "3.2MB", "3.6MB"
        ),
    ],
    "stories260k": [
        *_stages("stories260k", "hyper6", "seedlm4", "uniform4", "vptq3"),
        *_varied("stories260k_budget", "ecq", "allocate.budget", "60kB", "80kB", "100kB", "130kB", "170kB"),
    ],
    "minilm": _varied("minilm_2bit", "ecq2", "codec.rate", 1.5, 2.0, 3.0, 4.0),
    "resnet20": [
        *_budgets("UniformCodec", "kl", 150_000, 110_000, entropy=True, search=True),
        *_budgets("VptqCodec", "kl", 110_000, 80_000, entropy=True),
        *_budgets("EcqCodec", "kl", 60_000, 80_000, 110_000, 150_000, 250_000),
    ],
}
"""Our own rows by network: recipes with stages and overrides, or codecs with budgets. To add one, add a line."""
