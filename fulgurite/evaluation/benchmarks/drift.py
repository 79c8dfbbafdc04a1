"""How far a network's vectors have moved from its reference's, tower by tower.

    vectors [n, d], reference's [n, d] -> cosine of each with its own -> fidelity of the tower

Stricter than retrieval: whoever has stored the reference's vectors compares new ones with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.evaluation.benchmarks.base import Benchmark, need_captions, need_vectors
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.measure import Measure
from fulgurite.models.adapter import ImageTextAdapter


@dataclass(frozen=True)
class Drift(Benchmark):
    """Measures ``image_fidelity`` and ``text_fidelity``: mean cosines with ``View.reference``, an item a picture.

    Chance is the cosine with the reference's vector of another picture or caption, half of them further on: what is
    left where a vector says only that it is one of this network's.
    """

    @override
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        need_vectors(self, adapter)
        need_captions(self, split)
        _need_two(len(split))

    @override
    def evaluate(self, view: View) -> Evaluation:
        self.check(view.adapter, view.split)
        _need_two(len(view))
        own = view.tower_vectors()
        reference = view.reference or own
        places = np.arange(len(view))
        return Evaluation(
            (
                _fidelity("image_fidelity", own.images, reference.images, places),
                _fidelity("text_fidelity", own.captions, reference.captions, view.owners),
            )
        )


def _fidelity(name: str, vectors: Tensor, reference: Tensor, owners: NDArray[np.int64]) -> Measure:
    if vectors.shape != reference.shape:
        raise ValueError(
            f"{name}: the reference's vectors must be {list(vectors.shape)}, of the same split with the same limit, "
            f"got {list(reference.shape)}"
        )
    # in float64, equal vectors have a cosine of 1 to 1e-15
    ours, known = (functional.normalize(each.double(), dim=1) for each in (vectors, reference))
    other = known.roll(-(len(known) // 2), 0)
    kept, chance = ((known * each).sum(1).numpy() for each in (ours, other))

    def by_picture(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros(owners[-1] + 1)
        np.add.at(total, owners, values)
        return total

    return Measure(name, by_picture(kept), by_picture(np.ones(len(owners))), by_picture(chance), True, "")


def _need_two(count: int) -> None:
    if count < 2:
        raise ValueError(f"Drift needs two pictures or more, got {count}")
