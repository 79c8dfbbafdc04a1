"""Where the right one of a gallery ends up, for each query.

    queries [q, d], gallery [n, d] -> cosines, a chunk at a time -> wrong ones above the best right one -> hits in k

Any of several right ones will do, as for the five captions of a photo. Where scores are equal, the order is taken as
random and the result as its expectation: of ``a`` right and ``b`` wrong ones that share the place after ``above``
wrong ones, a right one is among the first ``k`` with probability ``1 - C(b, k - above) / C(a + b, k - above)``. So a
network that says the same of everything scores at chance, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_AT_ONCE = 1 << 22  # scores; 8 bytes each and as much again for comparisons: about 100 MB


@dataclass(frozen=True)
class Ranking:
    """The best right one of each query.

    Args:
        above: Wrong ones that score higher, ``[q]``.
        right: Right ones of its score, itself included, ``[q]``.
        wrong: Wrong ones of its score, ``[q]``.
        relevant: Right ones in all, ``[q]``.
        size: Of the gallery.
        finite: Whether all scores of a query were numbers, ``[q]``.
    """

    above: NDArray[np.int64]
    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    relevant: NDArray[np.int64]
    size: int
    finite: NDArray[np.bool_]

    def hits(self, k: int) -> NDArray[np.float64]:
        """Probability that a right one is among the first ``k``, ``[q]``; NaN where the network diverged."""
        found = _some_in_first(k - self.above, self.right, self.wrong)
        return np.where(self.finite, found, np.nan)

    def chance(self, k: int) -> NDArray[np.float64]:
        """The same for an order that is random, ``[q]``."""
        return _some_in_first(np.full_like(self.relevant, k), self.relevant, self.size - self.relevant)

    def ranks(self) -> NDArray[np.float64]:
        """Expected rank of the best right one, from 1, ``[q]``; NaN where the network diverged."""
        # the first of a among a + b in random order stands at (a + b + 1) / (a + 1) on average
        ranks = self.above + (self.right + self.wrong + 1) / (self.right + 1)
        return np.where(self.finite, ranks, np.nan)

    def of(self, queries: NDArray[np.int64]) -> Ranking:
        """The ranking of some queries, or of some several times."""
        above, right, wrong, relevant = (
            each[queries] for each in (self.above, self.right, self.wrong, self.relevant)
        )
        return Ranking(above, right, wrong, relevant, self.size, self.finite[queries])


def rank(
    queries: Tensor,
    gallery: Tensor,
    groups: Sequence[NDArray[np.int64]],
    group_of: NDArray[np.int64],
    at_once: int = _AT_ONCE,
) -> Ranking:
    """Rank a gallery for each query, in memory that does not grow with ``q * n``.

    Scores are summed up in float64 and rounded to float32, so that equal vectors have equal scores wherever in a
    matrix they stand.

    Args:
        queries: Vectors of length 1, ``[q, d]``.
        gallery: Vectors of length 1, ``[n, d]``.
        groups: Sets of gallery places, none empty.
        group_of: Which set is the right one for each query, ``[q]``.
        at_once: Scores held at a time, or those of one query if they are more.
    """
    known = gallery.double().T.contiguous()
    size = known.shape[1]
    above, right, wrong, finite = [], [], [], []
    rows = max(1, at_once // size)
    for start in range(0, len(queries), rows):
        scores = (queries[start : start + rows].double() @ known).float()
        wanted = torch.zeros(scores.shape, dtype=torch.bool)
        for row, group in enumerate(group_of[start : start + rows]):
            wanted[row, torch.from_numpy(groups[group])] = True
        best = scores.masked_fill(~wanted, float("-inf")).amax(1, keepdim=True)
        equal = scores == best
        above.append(((scores > best) & ~wanted).sum(1))
        right.append((equal & wanted).sum(1))
        wrong.append((equal & ~wanted).sum(1))
        finite.append(torch.isfinite(scores).all(1))
    relevant = np.array([len(group) for group in groups], dtype=np.int64)[group_of]
    return Ranking(
        above=torch.cat(above).numpy(),
        right=torch.cat(right).numpy(),
        wrong=torch.cat(wrong).numpy(),
        relevant=relevant,
        size=size,
        finite=torch.cat(finite).numpy(),
    )


def _some_in_first(
    drawn: NDArray[np.int64], right: NDArray[np.int64], wrong: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Probability of one right at least among ``drawn`` of ``right + wrong``; elementwise."""
    none = np.ones(len(drawn))
    for place in range(int(drawn.max(initial=0))):
        left = np.maximum(wrong - place, 0) / np.maximum(right + wrong - place, 1)
        none = np.where(place < drawn, none * left, none)
    return 1 - none
