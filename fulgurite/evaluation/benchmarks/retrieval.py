"""Retrieval both ways: the captions of a picture, and the picture of a caption.

    image vectors [n, d] x caption vectors [m, d] -> ranking -> share of queries with a right one in the first k

Recall at k as in Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR
2015, https://arxiv.org/abs/1412.2306, section 4.1: of a picture, one of its captions in the first k is a hit.
Differs: a caption that several pictures share is right for each of them, and equal scores count as a random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from fulgurite.evaluation.benchmarks.base import Benchmark, need_captions, need_vectors
from fulgurite.evaluation.benchmarks.ranking import Ranking, rank
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.measure import Measure
from fulgurite.models.adapter import ImageTextAdapter

Direction = Literal["image_to_text", "text_to_image"]


@dataclass(frozen=True)
class Retrieval(Benchmark):
    """Measures ``image_to_text_r1``, ..., ``text_to_image_r1``, ..., with median ranks and reciprocal ranks as facts.

    An item is a picture, also from text to image, where it counts its captions that find it: captions of one picture
    are hard together, and a bootstrap over single captions would be too sure.

    Args:
        ks: How many of the first are looked at. A ``k`` of the whole gallery has nothing to tell and is left out.

    Raises:
        ValueError: If ``ks`` are none, not all different, or below 1.
    """

    ks: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1, got {list(self.ks)}")
        object.__setattr__(self, "ks", tuple(self.ks))

    @override
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        need_vectors(self, adapter)
        need_captions(self, split)
        if len(split) <= min(self.ks):
            raise ValueError(f"Retrieval at {min(self.ks)} needs more pictures, got {len(split)}")

    @override
    def evaluate(self, view: View) -> Evaluation:
        self.check(view.adapter, view.split)
        if len(view) <= min(self.ks):
            raise ValueError(f"Retrieval at {min(self.ks)} needs more pictures in view, got {len(view)}")
        measures: list[Measure] = []
        facts: dict[str, float | None] = {}
        for direction, ranking in rankings(view).items():
            items = np.arange(len(view)) if direction == "image_to_text" else view.owners
            measures += [
                _measure(f"{direction}_r{k}", ranking, k, items, len(view))
                for k in self.ks
                if k < ranking.size
            ]
            ranks = ranking.ranks()
            facts[f"{direction}_median_rank"] = float(np.median(ranks))
            facts[f"{direction}_mean_reciprocal_rank"] = float(np.mean(1 / ranks))
        return Evaluation(tuple(measures), facts)


def rankings(view: View) -> dict[Direction, Ranking]:
    """Of the captions for each picture, and of the pictures for each caption."""
    images = view.image_vectors()
    texts, owners = view.caption_vectors()
    written = [text for some in view.captions for text in some]
    number = {text: place for place, text in enumerate(dict.fromkeys(written))}
    text_of = np.array([number[text] for text in written], dtype=np.int64)  # [m], equal texts alike
    # which pictures have a text, and where the texts stand that a picture has
    pictures: list[list[int]] = [[] for _ in number]
    places: list[list[int]] = [[] for _ in number]
    for place, (text, owner) in enumerate(zip(text_of, owners, strict=True)):
        places[text].append(place)
        if not pictures[text] or pictures[text][-1] != owner:
            pictures[text].append(int(owner))
    # pictures with the same texts share a set: of 10,000 with class names there are 10 sets
    kinds: dict[tuple[int, ...], int] = {}
    kind_of = np.array(
        [
            kinds.setdefault(tuple(sorted({number[text] for text in some})), len(kinds))
            for some in view.captions
        ]
    )
    right_texts = [np.concatenate([np.array(places[text]) for text in kind]) for kind in kinds]
    right_pictures = [np.array(some) for some in pictures]
    by_text = rank(texts[[some[0] for some in places]], images, right_pictures, np.arange(len(number)))
    return {
        "image_to_text": rank(images, texts, right_texts, kind_of),
        "text_to_image": by_text.of(text_of),
    }


def _measure(name: str, ranking: Ranking, k: int, items: NDArray[np.int64], count: int) -> Measure:
    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros(count)
        np.add.at(total, items, values)
        return total

    ones = np.ones(len(items))
    return Measure(name, sums(ranking.hits(k)), sums(ones), sums(ranking.chance(k)), True, "%")
