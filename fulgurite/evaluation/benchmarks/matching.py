"""Image-text matching: is a picture's own caption told from those of other pictures?

    picture, its first caption, captions of others -> log-odds of a match -> share of pictures whose own is highest

The score is the matching head's, as in Li et al., "BLIP: Bootstrapping Language-Image Pre-training", ICML 2022,
https://arxiv.org/abs/2201.12086, section 3.2. Captions of equal score share the point, as a guess among them would.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from fulgurite.evaluation.benchmarks.base import Benchmark, need_captions
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.measure import Measure
from fulgurite.models.adapter import ImageTextAdapter


@dataclass(frozen=True)
class Matching(Benchmark):
    """Measures ``matching``: whether the true caption scores highest; one item a picture.

    Args:
        negatives: Captions of other pictures beside the true one, all different.
        seed: Of their choice, which is the same for all networks.

    Raises:
        ValueError: If ``negatives`` is below 1.
    """

    negatives: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {self.negatives}")

    @override
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        if not adapter.matches:
            raise ValueError(
                f"Matching needs a network that scores a picture and a text together, got {adapter.kind}"
            )
        need_captions(self, split)
        choose_texts(split.captions, self.negatives, self.seed)

    @override
    def evaluate(self, view: View) -> Evaluation:
        self.check(view.adapter, view.split)
        scores = view.match_scores(choose_texts(view.captions, self.negatives, self.seed)).double().numpy()
        highest = scores == scores.max(1, keepdims=True)
        with np.errstate(invalid="ignore"):
            point = np.where(highest[:, 0], 1 / highest.sum(1).clip(1), 0.0)
        items = np.where(np.isnan(scores).any(1), np.nan, point)
        ones = np.ones(len(items))
        return Evaluation((Measure("matching", items, ones, ones / (1 + self.negatives), True, "%"),))


def choose_texts(captions: Sequence[Sequence[str]], negatives: int, seed: int) -> list[list[str]]:
    """The first caption of each picture, then others' that none of its own says.

    Raises:
        ValueError: If a picture has too few others that are captioned differently.
    """
    firsts = list(dict.fromkeys(some[0] for some in captions))
    draw = random.Random(seed)
    texts = []
    for place, own in enumerate(captions):
        # a few more than needed are drawn: its own may be among them
        drawn = draw.sample(firsts, min(len(firsts), negatives + len(set(own))))
        others = [text for text in drawn if text not in own][:negatives]
        if len(others) < negatives:
            raise ValueError(
                f"Matching needs {negatives} captions of other pictures that differ from those of picture {place}, "
                f"got {len(others)}"
            )
        texts.append([own[0], *others])
    return texts
