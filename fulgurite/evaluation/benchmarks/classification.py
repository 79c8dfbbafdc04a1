"""What became of each class: a confusion matrix and the scores that follow from it, by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.evaluation.benchmarks.extras import import_extra


@dataclass(frozen=True)
class Classification:
    """Scores of one answer a picture.

    A class without pictures that is never said does not count in the macro means.

    Args:
        confusion: Pictures by true class and class said, int64 ``[c, c]``.
        class_accuracy: Share of right answers among the pictures of each class, ``[c]``; NaN for a class without.
        precision: Macro mean; NaN where there is no answer at all.
        recall: Macro mean.
        f1: Macro mean.
    """

    confusion: Tensor
    class_accuracy: Tensor
    precision: float
    recall: float
    f1: float


def classify(predictions: NDArray, labels: NDArray, num_classes: int) -> Classification:  # type: ignore[type-arg]
    """Score answers.

    Args:
        predictions: Classes said, integers ``[n]``.
        labels: True classes, integers ``[n]``.
        num_classes: Of both, at least 2.

    Raises:
        ImportError: If torchmetrics is not installed.
    """
    metrics = import_extra("torchmetrics.functional.classification")
    said, true = torch.as_tensor(predictions).long(), torch.as_tensor(labels).long()
    if not len(said):
        nothing = torch.zeros(num_classes, num_classes, dtype=torch.long)
        unknown = float("nan")
        return Classification(nothing, torch.full((num_classes,), unknown), unknown, unknown, unknown)
    confusion = metrics.multiclass_confusion_matrix(said, true, num_classes)
    accuracy = metrics.multiclass_accuracy(said, true, num_classes, average="none").double()
    precision, recall, f1 = (
        float(score(said, true, num_classes, average="macro"))
        for score in (metrics.multiclass_precision, metrics.multiclass_recall, metrics.multiclass_f1_score)
    )
    accuracy[confusion.sum(1) == 0] = float("nan")
    return Classification(confusion, accuracy, precision, recall, f1)
