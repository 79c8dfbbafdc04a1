"""How well a text encoder's similarities agree with what people say, and with those of a reference.

    pairs of rows [n, t] -> vectors [n, d] twice -> cosines [n] -> rank correlation with the known scores
                            reference's vectors --> cosines of each vector with its own -> fidelity

Spearman's correlation of cosines with human scores is the usual score of semantic textual similarity: Cer et
al., "SemEval-2017 Task 1", https://arxiv.org/abs/1708.00055; why ranks, in Reimers et al., COLING 2016,
https://aclanthology.org/C16-1009.

Fidelity is stricter: whoever has stored the reference's vectors compares new ones with them. Its chance is an
encoder that gives every text the same vector, the best there is: the mean direction of the reference's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fulgurite.evaluation.correlation import pearson
from fulgurite.evaluation.measure import Measure
from fulgurite.models.pooling import Pooling, embed_rows


class RatedPairs(Protocol):
    """Pairs of texts with known scores; anything with these three attributes will do."""

    @property
    def first(self) -> Tensor:
        """Padded tokens of the first texts, ``[n, t]``."""

    @property
    def second(self) -> Tensor:
        """Padded tokens of the second texts, ``[n, t]``."""

    @property
    def scores(self) -> Tensor:
        """How alike the two are said to be, in any unit, ``[n]``."""


@dataclass(frozen=True)
class SimilarityResult:
    """What one pass over the pairs found.

    Args:
        measures: ``spearman`` and ``fidelity``, one item a pair.
        pearson: Linear correlation of the cosines with the scores; NaN where the network diverged.
        vectors: Of the first texts and then of the second, ``float32 [2 n, d]``: what ``reference`` takes.
        seconds: Time of the pass.
    """

    measures: tuple[Measure, ...]
    pearson: float
    vectors: Tensor
    seconds: float


def evaluate_similarity(
    network: nn.Module,
    pairs: RatedPairs,
    pooling: Pooling,
    pad_token: int,
    *,
    reference: Tensor | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SimilarityResult:
    """Measure an encoder on pairs of texts.

    Args:
        network: Gives ``last_hidden_state``.
        pairs: The texts and scores.
        pooling: How token vectors become one.
        pad_token: What rows are padded with.
        reference: ``vectors`` of the reference network on the same pairs with the same ``limit``; without it
            the network is its own reference.
        batch_size: Texts at a time.
        limit: Pairs at most, evenly spaced.
        progress: Called with the pairs done after each batch.

    Returns:
        The measures with their per-pair items. A network that diverged gives NaN items, not an error.

    Raises:
        ValueError: If there are no pairs, shapes do not fit, or a number is out of range.
    """
    started = time.perf_counter()
    chosen = chosen_pairs(len(pairs.scores), limit)
    if not len(pairs.first) == len(pairs.second) == len(pairs.scores):
        raise ValueError(
            "pairs must have as many first texts, second texts and scores, "
            f"got {len(pairs.first)}, {len(pairs.second)} and {len(pairs.scores)}"
        )
    rows = torch.cat([pairs.first[chosen], pairs.second[chosen]])
    vectors = embed_rows(
        network,
        rows,
        pooling,
        pad_token,
        batch_size=batch_size,
        progress=None if progress is None else lambda done: progress(done // 2),
    )
    if reference is None:
        reference = vectors
    if reference.shape != vectors.shape:
        raise ValueError(f"reference must be {list(vectors.shape)}, got {list(reference.shape)}")
    scores = pairs.scores[chosen].double().numpy()
    first, second = _unit(vectors).chunk(2)
    cosines: NDArray[np.float64] = (first * second).sum(1).numpy()
    ones, zeros = np.ones(len(scores)), np.zeros(len(scores))
    spearman = Measure("spearman", cosines, ones, zeros, True, "", "spearman", scores)
    known = _unit(reference)
    same = functional.normalize(known.mean(0), dim=0)
    kept, chance = ((known * other).sum(1) for other in (_unit(vectors), same))
    fidelity = Measure("fidelity", _by_pair(kept), ones, _by_pair(chance), True, "")
    linear = float(pearson(cosines, scores, np.ones((1, len(scores))))[0])
    return SimilarityResult((spearman, fidelity), linear, vectors, time.perf_counter() - started)


def chosen_pairs(count: int, limit: int | None) -> Tensor:
    """Indices of at most ``limit`` of ``count`` pairs, evenly spaced: files tend to be sorted by source.

    Raises:
        ValueError: If there are no pairs, or ``limit`` allows none.
    """
    if count < 1:
        raise ValueError(f"pairs must have at least one pair, got {count}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    kept = count if limit is None else min(limit, count)
    return torch.arange(kept) * count // kept


def _unit(vectors: Tensor) -> Tensor:
    """The same directions with length 1, in float64: equal vectors then have a cosine of 1 to 1e-15."""
    return functional.normalize(vectors.double(), dim=1)


def _by_pair(values: Tensor) -> NDArray[np.float64]:
    """Mean over the two texts of each pair, ``[2 n]`` to ``[n]``."""
    paired: NDArray[np.float64] = values.reshape(2, -1).mean(0).numpy()
    return paired
