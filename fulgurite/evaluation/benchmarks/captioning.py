"""Captions by beam search, scored against those of people.

    pictures -> network -> captions -> words -> CIDEr, ROUGE-L per picture -> measures
                               references -> words -/        BLEU, METEOR, SPICE over all -> facts

Chance is what a network's captions score for other pictures: who writes the same whatever it sees is at chance, however
well its one sentence fits the sort of pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from typing_extensions import override

from fulgurite.evaluation.benchmarks.base import Benchmark, need_captions
from fulgurite.evaluation.benchmarks.caption_scores import (
    meteor_score,
    missing_for_meteor,
    missing_for_spice,
    score_captions,
    spice_score,
)
from fulgurite.evaluation.benchmarks.caption_tokens import find_java, tokenize_captions
from fulgurite.evaluation.benchmarks.extras import import_extra
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.measure import Measure
from fulgurite.models.adapter import ImageTextAdapter

logger = logging.getLogger(__name__)

Wanted = Literal["auto", "off", "on"]


@dataclass(frozen=True)
class Captioning(Benchmark):
    """Measures ``cider`` and ``rouge_l``, an item a picture; ``bleu_1`` to ``bleu_4`` and more are facts.

    Document frequencies of CIDEr are those of the references in view, as pycocoevalcap has it. Nothing is downloaded.

    Args:
        num_beams: Of the beam search; 1 is greedy.
        max_new_tokens: Of a caption.
        meteor: Whether METEOR is a fact: ``auto`` where Java is found. It takes seconds to start.
        spice: Whether SPICE is a fact: ``auto`` where Java and the models are found, which pycocoevalcap comes without.

    Raises:
        ValueError: If a setting is out of range.
    """

    num_beams: int = 3
    max_new_tokens: int = 30
    meteor: Wanted | bool = "auto"
    spice: Wanted | bool = "auto"

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("meteor", "spice"):
            if isinstance(getattr(self, name), bool):  # what YAML makes of on and off without quotes
                object.__setattr__(self, name, "on" if getattr(self, name) else "off")
            if getattr(self, name) not in ("auto", "off", "on"):
                raise ValueError(f"{name} must be auto, off or on, got {getattr(self, name)!r}")

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "java": find_java() is not None}

    @override
    def check(self, adapter: ImageTextAdapter, split: ImageSplit) -> None:
        """See ``Benchmark.check``.

        Raises:
            ValueError: If the network writes no captions, the split has none, or ``on`` is asked for in vain.
            ImportError: If pycocoevalcap is not installed.
        """
        if not adapter.writes_captions:
            raise ValueError(f"Captioning needs a network that writes captions, got {adapter.kind}")
        need_captions(self, split)
        _need_two(len(split))
        import_extra("pycocoevalcap.cider.cider")
        for name, wanted, missing in self._in_java():
            if wanted == "on" and (why := missing()) is not None:
                raise ValueError(f"{name} must be auto or off here, got 'on', but {why}")

    @override
    def evaluate(self, view: View) -> Evaluation:
        self.check(view.adapter, view.split)
        _need_two(len(view))
        count, ones = len(view), np.ones(len(view))
        captions = view.captions
        finite = view.has_finite_weights()
        if finite:
            said = view.captions_written(num_beams=self.num_beams, max_new_tokens=self.max_new_tokens)
        else:
            said = [""] * count
        # one call: a Java is slow to start
        words = iter(tokenize_captions([*said, *(text for some in captions for text in some)]))
        written = [next(words) for _ in said]
        references = [[next(words) for _ in some] for some in captions]
        scores = score_captions(written, references)
        chance = score_captions([*written[count // 2 :], *written[: count // 2]], references)
        facts: dict[str, float | None] = {
            **{f"bleu_{order}": value for order, value in enumerate(scores.bleu, start=1)},
            "different_captions": len(set(written)) / count,
            **self._facts_of_java(written, references),
        }
        cider, rouge = scores.cider, scores.rouge_l
        if not finite:
            cider, rouge, facts = ones * np.nan, ones * np.nan, dict.fromkeys(facts)
        return Evaluation(
            (
                Measure("cider", cider, ones, chance.cider, True, ""),
                Measure("rouge_l", rouge, ones, chance.rouge_l, True, ""),
            ),
            facts,
        )

    def _facts_of_java(
        self, written: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, float | None]:
        """METEOR and SPICE as far as they are wanted; what cannot be had is ``None``, and the log says why."""
        facts: dict[str, float | None] = {}
        for (name, wanted, missing), score in zip(self._in_java(), (meteor_score, spice_score), strict=True):
            if wanted == "off":
                continue
            facts[name] = None
            why = missing()
            if why is not None:
                logger.info("%s is left out: %s", name, why)
                continue
            try:
                facts[name] = score(written, references)
            except RuntimeError as error:
                if wanted == "on":
                    raise
                logger.warning("%s is left out: %s", name, error)
        return facts

    def _in_java(self) -> list[tuple[str, Wanted | bool, Callable[[], str | None]]]:
        return [("meteor", self.meteor, missing_for_meteor), ("spice", self.spice, missing_for_spice)]


def _need_two(count: int) -> None:
    if count < 2:
        raise ValueError(f"Captioning needs two pictures or more, got {count}")
