"""Held-out text as all tokenizers see it: what language models with different tokens are judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.last_word import LastWordQuestion, evaluate_last_word, last_word_choices
from fulgurite.evaluation.scoring import evenly_spaced
from fulgurite.evaluation.spans import cut_spans, evaluate_spans, span_chance

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SpanJudge:
    """Spans and questions of one text, with the chance that the reference's tokenizer gives them.

    Args:
        spans: Stretches of text, each about a window of the reference long.
        questions: Sentences whose last word is to be told from three others; may be none.
        chance: Bits of each span for who knows the reference's token frequencies only, ``[n]``.
    """

    spans: tuple[str, ...]
    questions: tuple[LastWordQuestion, ...]
    chance: NDArray[np.float64]

    @classmethod
    def of(
        cls, datamodule: Any, tokenizer: PreTrainedTokenizerBase, questions: int, limit: int | None
    ) -> SpanJudge:
        """Cut the validation text as the reference's tokenizer suggests.

        Args:
            datamodule: A ``TextDataModule`` that reads with ``tokenizer``.
            tokenizer: The reference's.
            questions: At most; 0 for none.
            limit: Spans at most, evenly spaced.

        Raises:
            ValueError: If there is no validation text of its own.
        """
        text = datamodule.text("validation")
        windows = datamodule.evaluation_windows("validation")
        spans = cut_spans(text, int(windows.num_bytes.double().mean()))
        most = min(len(windows), limit or len(windows))
        chosen = tuple(spans[index] for index in evenly_spaced(len(spans), most))
        unigram = datamodule.unigram() if datamodule.has_split("train") else None
        asked = last_word_choices(text, count=questions) if questions else ()
        return cls(chosen, asked, span_chance(tokenizer, chosen, unigram))

    @property
    def num_bytes(self) -> int:
        """Of all spans."""
        return sum(len(span.encode()) for span in self.spans)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        content = repr((self.spans, self.questions)).encode() + self.chance.tobytes()
        return hashlib.sha256(content).hexdigest()

    def evaluate(
        self,
        network: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Bits per byte and words guessed for each span, and the choices for each question."""
        result = evaluate_spans(
            network,
            tokenizer,
            self.spans,
            chance=self.chance,
            batch_size=batch_size,
            progress=None if progress is None else lambda done, _: progress(done),
        )
        measures = list(result.measures)
        facts: dict[str, float | None] = {
            "tokens_per_second": result.tokens / result.seconds,
            "lossy_spans": float(result.lossy),
        }
        if self.questions:
            answers = evaluate_last_word(network, tokenizer, self.questions, batch_size=batch_size)
            measures.append(next(one for one in answers.measures if one.name == "last_word"))
        return Evaluation(measures, facts)
