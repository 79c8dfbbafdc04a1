"""A trained hierarchy on held-out rows: error, bits and use of codes of each category.

batches -> codes -> rebuilt by the first level, two, three -> errors, bytes of the streams, counts of codes -> Result
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fulgurite.analysis.pages import Result, Rows
from fulgurite.features.plots import plot_errors, plot_health
from fulgurite.reporting.units import format_bytes, format_percent
from fulgurite.vqvae.health import Health, Usage
from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.stream import decoder_bytes, stream_bytes

_HEADER = (
    "category", "features", "codes", "bits/feature", "error",
    "relative error", "against the mean", "dead", "perplexity",
)  # fmt: skip


@dataclass(frozen=True)
class CategoryErrors:
    """One category.

    Args:
        features: Their number.
        tokens: Codes of a row, by level.
        bits_per_feature: Entropy-coded, on these rows.
        error: Mean squared error of a standardised feature.
        relative: Squared error as a share of the squared values, after each level that there is.
    """

    features: int
    tokens: tuple[int, ...]
    bits_per_feature: float
    error: float
    relative: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """All categories.

    Args:
        rows: That were measured.
        categories: By name.
        health: Use of the codebooks.
        decoder_bytes: Of what decoding needs beside the codes.
    """

    rows: int
    categories: dict[str, CategoryErrors]
    health: list[Health]
    decoder_bytes: int

    @property
    def worst(self) -> tuple[str, float]:
        """The category with the largest relative error."""
        return max(
            ((name, one.relative[-1]) for name, one in self.categories.items()), key=lambda pair: pair[1]
        )

    @property
    def mean(self) -> float:
        """Mean relative error of the categories."""
        return sum(one.relative[-1] for one in self.categories.values()) / len(self.categories)

    @property
    def imbalance(self) -> float:
        """Largest relative error over the smallest."""
        errors = [one.relative[-1] for one in self.categories.values()]
        return max(errors) / max(min(errors), 1e-12)

    @property
    def dead(self) -> float:
        """Share of all codes that no row has chosen."""
        books = sum(one.tokens * one.codes for one in self.health)
        return sum(one.dead * one.tokens * one.codes for one in self.health) / max(books, 1)

    @property
    def bits_per_feature(self) -> float:
        """Of all features."""
        features = sum(one.features for one in self.categories.values())
        return sum(one.bits_per_feature * one.features for one in self.categories.values()) / features


@torch.no_grad()
def diagnose(hierarchy: Hierarchy, batches: Iterable[Tensor]) -> Diagnosis:
    """Measure.

    Args:
        hierarchy: In evaluation mode.
        batches: Standardised rows, ``[n, features]`` each.

    Raises:
        ValueError: If there is no row.
    """
    usage = Usage(hierarchy)
    sums: dict[str, Tensor] = {}
    codes: dict[str, list[Tensor]] = {}
    rows = 0
    for batch in batches:
        coded = hierarchy(batch)
        usage.add(coded)
        rows += len(batch)
        for name, places, _ in hierarchy.parts():
            wanted = batch[:, places].double()
            errors = [(wanted - level).square().sum() for level in coded[name].levels]
            found = torch.stack([*errors, wanted.square().sum()]).cpu()
            sums[name] = sums.get(name, torch.zeros_like(found)) + found
        for name, found in hierarchy.encode(batch).items():
            codes.setdefault(name, []).append(found.cpu())
    if not rows:
        raise ValueError("expected rows to measure on, found none")
    sizes = stream_bytes(hierarchy, {name: torch.cat(parts) for name, parts in codes.items()})
    tokens = hierarchy.tokens_by_level()
    categories = {}
    for name, places, _ in hierarchy.parts():
        *errors, energy = (float(one) for one in sums[name])
        count = rows * len(places)
        relative = tuple(one / max(energy, 1e-12) for one in errors)
        categories[name] = CategoryErrors(
            len(places), tuple(tokens[name]), 8 * sizes[name] / count, errors[-1] / count, relative
        )
    return Diagnosis(rows, categories, usage.health(), decoder_bytes(hierarchy))


def diagnosis_page(found: Diagnosis, source: str, command: str = "") -> list[Result]:
    """Two pages: errors by category, and codebooks by level; each with its plot."""
    table = Rows(
        _HEADER, [_row(name, one, found) for name, one in found.categories.items()], [False, *[True] * 8]
    )
    name, worst = found.worst
    lead = (
        f"{found.rows:,} rows of {source}. The worst category is {name} with a relative error of {worst:.4g}; "
        f"the mean of the categories is {found.mean:.4g}, the largest is {found.imbalance:.3g} times the smallest. "
        f"{found.bits_per_feature:.4g} bits a feature, entropy-coded; decoders and codebooks take "
        f"{format_bytes(found.decoder_bytes)} beside them. {format_percent(found.dead)} of all codes were not used."
    )
    facts = {
        "rows": found.rows,
        "worst": worst,
        "worst_category": name,
        "mean": found.mean,
        "imbalance": found.imbalance,
        "dead": found.dead,
        "bits_per_feature": found.bits_per_feature,
        "decoder_bytes": found.decoder_bytes,
        "categories": {name: vars(one) for name, one in found.categories.items()},
        "health": [one.to_dict() for one in found.health],
    }
    books = Rows(
        ("category", "level", "codebooks", "codes", "used", "dead", "perplexity"),
        [
            [one.category, str(one.level), str(one.tokens), str(one.codes), format_percent(one.used),
             format_percent(one.dead), f"{one.perplexity:.1f}"]
            for one in found.health
        ],
        [False, *[True] * 6],
        "Use is of the rows above: few rows leave codes of a large codebook unused by chance.",
    )  # fmt: skip
    errors = {name: one.relative for name, one in found.categories.items()}
    return [
        Result(
            "diagnosis", "Categories", lead, [table], facts, plot_errors(errors),
            "relative error of each category after each level", command,
        ),
        Result(
            "codebooks", "Codebooks", "How the codes of each level are used, means over its codebooks.", [books],
            {"health": facts["health"]}, plot_health(found.health), "use and perplexity of codebooks", command,
        ),
    ]  # fmt: skip


def _row(name: str, one: CategoryErrors, found: Diagnosis) -> Sequence[str]:
    books: list[Any] = [health for health in found.health if health.category == name]
    count = sum(health.tokens for health in books)
    dead = sum(health.dead * health.tokens for health in books) / max(count, 1)
    perplexity = sum(health.perplexity * health.tokens for health in books) / max(count, 1)
    return [
        name,
        str(one.features),
        " + ".join(map(str, one.tokens)),
        f"{one.bits_per_feature:.3f}",
        f"{one.error:.4g}",
        f"{one.relative[-1]:.4g}",
        f"{one.relative[-1] / found.mean:.2f}",
        format_percent(dead),
        f"{perplexity:.1f}",
    ]
