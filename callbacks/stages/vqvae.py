"""The stage that codes token embeddings by a VQ-VAE whose ratios follow the table.

table [tokens, d] -> columns that correlate make a category -> codes of each by a strategy -> VqvaeCodec -> gate
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from callbacks.stages.stage import Stage
from fulgurite.codecs import Codec
from fulgurite.codecs.vqvae import VqvaeCodec
from fulgurite.features.categories import find_categories
from fulgurite.features.curves import measure_errors
from fulgurite.features.ratios import MEASURED, analyse, plan_codes
from fulgurite.vqvae.quantiser import QuantiserSettings

_ROWS = 4096  # that analysis and curves look at


class VqvaeStage(Stage):
    """Code the rows of some weights by autoencoders over categories of their columns.

    Args:
        bits_per_weight: Of the codes, all categories together.
        strategy: Who gets how many, see ``fulgurite.features.ratios``.
        categories: ``auto``, or a number of clusters of columns by correlation.
        codes: Size of a codebook.
        steps: Training steps.
        select: Glob patterns over names; the weights whose rows are alike, such as tables of embeddings.
        seed: Of samples and batches.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.
        retries: Further tries with recommended changes after a rejection; the cascade's own by default.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        bits_per_weight: float = 1.0,
        strategy: Literal["uniform", "dimensionality", "information", "balanced", "slope", "worst"] = "slope",
        categories: int | Literal["auto"] = "auto",
        codes: int = 64,
        steps: int = 50,
        select: str | list[str] = "*word_embeddings.weight",
        seed: int = 0,
        min_retention: float | None = None,
        retries: int | None = None,
    ) -> None:
        codec = VqvaeCodec(bits_per_weight, codes, steps, seed=seed)
        super().__init__(codec, select, min_retention=min_retention, retries=retries)
        self.strategy = strategy
        self.categories = categories

    @override
    def settings(self) -> dict[str, Any]:
        return super().settings() | {"strategy": self.strategy, "categories": self.categories}

    @override
    def plan(self, weights: Mapping[str, Tensor], *, key: str, network: str) -> dict[str, Codec]:
        return {
            name: self._fitted(name, weights[name], codec) if isinstance(codec, VqvaeCodec) else codec
            for name, codec in super().plan(weights, key=key, network=network).items()
        }

    def _fitted(self, name: str, weight: Tensor, codec: VqvaeCodec) -> VqvaeCodec:
        """The codec with the categories of a weight's columns, and codes by the strategy."""
        rows = weight.detach().flatten(1).float().cpu()
        size = min(codec.codes, 1 << max(0, (len(rows) // 4).bit_length() - 1))
        if size < 2 or rows.shape[1] < 2:
            return codec
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(codec.seed))
        sample = rows[order[:_ROWS]]
        sample = (sample - rows.mean(0)) / rows.std(0).clamp_min(1e-12)
        names = [str(column) for column in range(rows.shape[1])]
        found = find_categories(names, sample.numpy(), self.categories)
        settings = QuantiserSettings(codes=size)
        try:
            errors = None
            if self.strategy in MEASURED:
                most = max(1, round(codec.bits_per_weight * rows.shape[1] / settings.bits))
                held = len(sample) // 4
                train = sample[held:] if len(sample) - held >= size else sample
                errors = measure_errors(train, sample[:held], found, settings, most)
            plan = plan_codes(
                analyse(sample, found),
                settings.bits,
                strategy=self.strategy,
                bits_per_feature=codec.bits_per_weight,
                errors=errors,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        columns = tuple(tuple(places) for places in found.values())
        return replace(codec, columns=columns, tokens=tuple(plan.tokens[category] for category in found))
