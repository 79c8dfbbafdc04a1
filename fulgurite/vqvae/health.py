"""How a codebook is used: over an epoch, not a batch, as a batch is too small to see rare codes.

codes of each batch -> counts [tokens, codes] -> share used, share dead, perplexity
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fulgurite.vqvae.autoencoder import Coded
from fulgurite.vqvae.hierarchy import Hierarchy

Key = tuple[str, int]
"""A category, and a level from 0."""


@dataclass(frozen=True)
class Health:
    """Use of the codebooks of one level of one category; numbers are means over its tokens.

    Args:
        category: Its name.
        level: From 0.
        tokens: Codebooks.
        codes: Of each codebook.
        rows: That were coded.
        dead: Share of codes that no row has chosen.
        perplexity: ``exp`` of the entropy: as many codes used alike would say as much.
    """

    category: str
    level: int
    tokens: int
    codes: int
    rows: int
    dead: float
    perplexity: float

    @property
    def used(self) -> float:
        """Share of codes that some row has chosen."""
        return 1 - self.dead

    def to_dict(self) -> dict[str, float | int | str]:
        """For a file."""
        return asdict(self)


class Usage:
    """Counts of codes over an epoch.

    Args:
        hierarchy: Whose codes are counted.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self.counts: dict[Key, Tensor] = {}

    def add(self, coded: Mapping[str, Coded]) -> None:
        """Count a batch."""
        for name, _, network in self._hierarchy.parts():
            for level, coder, codes in zip(network.levels, network.coders(), coded[name].codes, strict=True):
                size = network.settings.size
                tokens = codes.shape[1]
                shifted = codes.long() + size * torch.arange(tokens, device=codes.device)
                counts = torch.bincount(shifted.flatten(), minlength=size * tokens).view(tokens, size)
                kept = counts[coder.open_tokens().to(counts.device)].double().cpu()
                key = (name, int(level))
                # gates may close during an epoch: what is counted is then another set of tokens
                same = key in self.counts and self.counts[key].shape == kept.shape
                self.counts[key] = self.counts[key] + kept if same else kept

    def clear(self) -> None:
        """Begin another epoch."""
        self.counts.clear()

    def health(self) -> list[Health]:
        """What the counts say."""
        return [_health(key, counts) for key, counts in self.counts.items() if len(counts)]


def perplexity(counts: Tensor) -> Tensor:
    """``exp`` of the entropy of each row of counts.

    Example:
        >>> perplexity(torch.tensor([[5.0, 5.0, 0.0], [9.0, 0.0, 0.0]])).tolist()
        [2.0, 1.0]
    """
    shares = counts.double() / counts.double().sum(1, keepdim=True).clamp_min(1)
    return torch.exp(torch.special.entr(shares).sum(1))


def _health(key: Key, counts: Tensor) -> Health:
    rows = int(counts[0].sum())
    return Health(
        category=key[0],
        level=key[1],
        tokens=len(counts),
        codes=counts.shape[1],
        rows=rows,
        dead=float((counts == 0).double().mean()),
        perplexity=float(perplexity(counts).mean()),
    )


def expected_dead(health: Health) -> float:
    """Share of codes that would be unused by chance if all were used alike: few rows leave codes out."""
    return math.exp(-health.rows / health.codes)
