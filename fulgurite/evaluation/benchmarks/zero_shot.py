"""Zero-shot classification: which class's text a picture is nearest to.

    classes x templates -> text vectors -> mean over templates, / length -> class vectors [c, d]
    image vectors [n, d] x class vectors -> cosines [n, c] -> place of the true class -> top-1, top-5

Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
https://arxiv.org/abs/2103.00020, section 3.1.4 (an ensemble over templates in the space of vectors).
Differs: classes of equal score share the point, as a guess among them would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.evaluation.benchmarks.base import Benchmark, need_vectors
from fulgurite.evaluation.benchmarks.classification import Classification, classify
from fulgurite.evaluation.benchmarks.lines import read_lines
from fulgurite.evaluation.benchmarks.ranking import rank
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.measure import Measure
from fulgurite.models.adapter import ImageTextAdapter

_TOP = 5
_TEXTS = 4096  # at a time: 1,000 classes in 80 templates would else be held at once


@dataclass(frozen=True)
class ZeroShotResult:
    """What one pass over the pictures found.

    Args:
        measures: ``top1``, and ``top5`` where there are more than five classes; one item a picture.
        classes: Their names, in the order of the labels.
        labels: True classes, ``[n]``.
        predictions: Nearest classes, ``[n]``, the first of equal ones; -1 where the network diverged.
        scores: Of the pictures that have a prediction, by torchmetrics.
    """

    measures: tuple[Measure, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    scores: Classification


@dataclass(frozen=True)
class ZeroShot(Benchmark):
    """Measures ``top1`` and ``top5``; macro precision, recall and F1 and the worst class's accuracy are facts.

    Args:
        templates: Sentences with ``{}`` in the place of the class, or the path of a file with one a line.
        classes: Other names of the split's classes, in their order, or the path of a file with one a line.

    Raises:
        ValueError: If a list is empty, a file missing, or a template has no ``{}``.
    """

    templates: Sequence[str] | str = ("a photo of a {}.",)
    classes: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", read_lines("templates", self.templates))
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"templates must have {{}} in the place of the class, got {template!r}")
        if self.classes is not None:
            object.__setattr__(self, "classes", read_lines("classes", self.classes))

    @override
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        need_vectors(self, adapter)
        if split.labels is None or not len(split.classes):
            raise ValueError(f"ZeroShot needs pictures with classes, got {split.description} without")
        names = self.names(split)
        if len(names) != len(split.classes) or len(names) < 2:
            raise ValueError(
                f"ZeroShot needs two classes or more, and a name for each of the {len(split.classes)} of "
                f"{split.description}, got {len(names)}"
            )

    @override
    def evaluate(self, view: View) -> Evaluation:
        result = self.result(view)
        scores = result.scores
        known = scores.class_accuracy[~scores.class_accuracy.isnan()]
        facts: dict[str, float | None] = {
            "zero_shot_precision": scores.precision,
            "zero_shot_recall": scores.recall,
            "zero_shot_f1": scores.f1,
            "zero_shot_worst_class": float(known.min()) if len(known) else None,
        }
        return Evaluation(result.measures, facts)

    def result(self, view: View) -> ZeroShotResult:
        """The measures with what became of each class.

        Raises:
            ValueError: As ``check``.
            ImportError: If torchmetrics is not installed.
        """
        self.check(view.adapter, view.split)
        labels = view.labels
        assert labels is not None  # checked
        classes = self.names(view.split)
        images, vectors = view.image_vectors(), class_vectors(view, classes, self.templates)
        alone = [np.array([label]) for label in range(len(classes))]
        ranking = rank(images, vectors, alone, labels)
        # how many pictures each class has, the commonest first: what can be known without a look
        shares = np.bincount(labels, minlength=len(classes))
        commonest = np.argsort(-shares, kind="stable")
        measures = [
            Measure(
                f"top{k}",
                ranking.hits(k),
                np.ones(len(labels)),
                np.isin(labels, commonest[:k]).astype(float),
                True,
                "%",
            )
            for k in (1, _TOP)
            if k == 1 or len(classes) > k
        ]
        nearest = (images @ vectors.T).argmax(1).numpy()
        predictions = np.where(ranking.finite, nearest, -1)
        finite = ranking.finite
        scores = classify(predictions[finite], labels[finite], len(classes))
        return ZeroShotResult(tuple(measures), classes, labels, predictions, scores)

    def names(self, split: ImageSplit) -> tuple[str, ...]:
        """Of the classes that are told apart."""
        return tuple(split.classes if self.classes is None else self.classes)


def class_vectors(view: View, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Vectors of classes: the mean over templates of vectors of length 1, brought to length 1, ``[c, d]``."""
    at_once = max(1, _TEXTS // len(templates))
    parts = []
    for start in range(0, len(classes), at_once):
        some = classes[start : start + at_once]
        texts = [template.replace("{}", name) for name in some for template in templates]
        vectors = view.text_vectors(texts).reshape(len(some), len(templates), -1)
        parts.append(functional.normalize(vectors.mean(1), dim=1))
    return torch.cat(parts)
