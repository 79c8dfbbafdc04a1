"""What the harness found of each item, as measures that a gate pairs.

    samples of a task -> the primary metric, item by item, with its chance -> Measure
                      -> every other metric, aggregated                    -> facts
                      -> answers, item by item                             -> lines of a file

Chance is, of a choice, one in as many as there are; of an answer in free text 0; of bits per byte what who knows the
frequencies of the text's tokens needs. An item of a network that diverged is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fulgurite.evaluation.language import token_probabilities
from fulgurite.evaluation.measure import Measure

_NATS_PER_BIT = math.log(2)
_ROLLING = "loglikelihood_rolling"


@dataclass(frozen=True)
class TaskScore:
    """One benchmark of one network.

    Args:
        name: Of the task, and of its measure.
        metric: The metric that the measure is of, such as ``acc_norm``.
        measure: Item by item.
        others: The task's other metrics.
        items: One plain JSON object an item: its place in the file, what was said, the metrics.
    """

    name: str
    metric: str
    measure: Measure
    others: Mapping[str, float]
    items: tuple[dict[str, Any], ...]

    @property
    def standard_error(self) -> float:
        """Of the score, for items drawn at random; NaN for one item."""
        measure = self.measure
        if measure.items.size < 2:
            return math.nan
        left = measure.items - measure.value * measure.weights  # a mean has weights of 1
        count = measure.items.size
        return float(np.sqrt((left**2).sum() * count / (count - 1)) / measure.weights.sum())


def score_task(task: Any, samples: Sequence[Mapping[str, Any]], lm: Any) -> TaskScore:
    """The measure, the other metrics and the items of a task that has been run.

    Args:
        task: Of the harness.
        samples: What the harness has logged of it, one an item and filter.
        lm: The ``NetworkLM`` that it was run with.

    Raises:
        ValueError: If the task's ``metadata`` names a primary metric that it has not.
    """
    found: dict[str, list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            key = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            found.setdefault(key, []).append(sample[metric])
    metadata = task.config.metadata or {}
    primary = metadata.get("primary", next(iter(found)))
    if primary not in found:
        raise ValueError(
            f"{task.task_name}: metadata.primary must be one of {', '.join(found)}, got {primary!r}"
        )
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]  # each item once
    if task.OUTPUT_TYPE == _ROLLING:
        measure = _bits_per_byte(task.task_name, first, lm)
    else:
        values = np.array(found[primary], float)
        values[[_diverged(sample) for sample in first]] = math.nan
        measure = Measure(task.task_name, values, np.ones(len(values)), _chance(first, metadata), True, "%")
    others = {}
    for key, each in found.items():
        if key != primary:
            others[key] = float(task.aggregation()[key.split(",", 1)[0]](each))
    return TaskScore(task.task_name, primary, measure, others, tuple(_lines(task, samples)))


def share_of_true_answers(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """TruthfulQA's mc2: the true answers' share of the probability of all.

    As the harness has it, but for a shift that keeps answers of very small probability from becoming 0 / 0.
    """
    nats = np.array([each[0] for each in results])
    shares = np.exp(nats - nats.max())
    true = np.array(doc["mc2_targets"]["labels"]) == 1
    return {"acc": float(shares[true].sum() / shares.sum())}


def _bits_per_byte(name: str, samples: Sequence[Mapping[str, Any]], lm: Any) -> Measure:
    pairs = np.array([sample["bits_per_byte"] for sample in samples], float)  # log-probability, bytes
    texts = [torch.tensor(lm.tok_encode(sample["arguments"][0][0])) for sample in samples]
    bits = -token_probabilities(torch.cat(texts)).log2()
    chance = np.array([float(bits[tokens].sum()) for tokens in texts])
    return Measure(name, -pairs[:, 0] / _NATS_PER_BIT, pairs[:, 1], chance, False, "bits/byte")


def _chance(samples: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> NDArray[np.float64]:
    """Score of each item for who answers at random."""
    if field := metadata.get("chance"):  # labels, of which any share may be right
        return np.array([np.mean(_field(sample["doc"], field)) for sample in samples], float)
    if isinstance(samples[0]["filtered_resps"][0], str | list):
        return np.zeros(len(samples))
    return np.array([1 / len(sample["arguments"]) for sample in samples])


def _field(doc: Any, field: str) -> Any:
    for part in field.split("."):
        doc = doc[part]
    return doc


def _diverged(sample: Mapping[str, Any]) -> bool:
    return any(isinstance(answer, tuple) and math.isnan(answer[0]) for answer in sample["filtered_resps"])


def _lines(task: Any, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was said of each item, in plain JSON."""
    lines = []
    for sample in samples:
        line: dict[str, Any] = {"benchmark": task.task_name, "item": int(sample["doc_id"])}
        if sample["filter"] != "none":
            line["filter"] = sample["filter"]
        said = [answer[0] if isinstance(answer, tuple) else answer for answer in _answers(sample)]
        line["said"] = [_plain(value) for value in said]
        target = sample["target"]
        line["target"] = target if isinstance(target, int | str) and len(str(target)) < 400 else None
        line |= {metric: _plain(sample[metric]) for metric in sample["metrics"]}
        lines.append(line)
    return lines


def _answers(sample: Mapping[str, Any]) -> list[Any]:
    """Log-probabilities of the choices, or of the text, or the text that was written."""
    return [answer[0] if isinstance(answer, list) and answer else answer for answer in sample["resps"]]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, str) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
