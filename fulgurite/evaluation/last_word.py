"""Which of four words ends a sentence: a choice that any tokenizer can be put to.

    held-out text -> sentences -> last word and three more of its length and frequency -> questions
    question -> log-probability of each word after the sentence -> share of true words that are the most probable

After LAMBADA: Paperno et al., "The LAMBADA dataset: Word prediction requiring a broad discourse context", ACL
2016, https://arxiv.org/abs/1606.06031. Differs: one sentence of any text instead of chosen passages, and a
choice among words that are as long and as frequent, so that who knows no context has one in four.

A word is scored by all its tokens, ``sum ln p``, as lm-evaluation-harness's ``acc`` does; its ``acc_norm``,
which divides by length, is told beside it. Tokens are counted from the first in which the four texts and
the sentence differ: a token that holds the sentence's end and the word's beginning is so scored for all four.
"""

from __future__ import annotations

import heapq
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.scoring import Row, common_prefix, encode_all, evenly_spaced, score_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# whole words: no "wouldn" of "wouldn't"
_LETTERS = re.compile(r"(?<!\w)(?<!\w['’-])[^\W\d_]{4,}(?!['’-]?\w)")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+")
_ENDING = re.compile(r"(.*\S) ([^\W\d_]{4,})[.!?]+[\"'”’)\]]*")
_CONTEXT_WORDS = (5, 60)  # fewer tell little, more are mostly lists and verse
_NEAREST = 8  # words as frequent as the true one from which the others are drawn


@dataclass(frozen=True)
class LastWordQuestion:
    """A sentence without its end.

    Args:
        context: The sentence up to its last word, without the space before that.
        words: The words to choose from, all different.
        answer: Index of the true one.

    Raises:
        ValueError: If there is nothing to choose, or the answer is none of the words.
    """

    context: str
    words: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.words) < 2 or len(set(self.words)) < len(self.words):
            raise ValueError(f"words must be two or more and all different, got {self.words}")
        if not 0 <= self.answer < len(self.words):
            raise ValueError(f"answer must be in [0, {len(self.words)}), got {self.answer}")


@dataclass(frozen=True)
class LastWordResult:
    """What one pass over the questions found.

    Args:
        measures: ``last_word``, the choice, and ``last_word_greedy``, whether the true word is what greedy decoding
            says; one item a question.
        per_byte: Share of right choices by log-probability per byte of the word.
        seconds: Time of the pass.
    """

    measures: tuple[Measure, ...]
    per_byte: float
    seconds: float


def last_word_choices(
    text: str | Sequence[str], *, count: int = 500, candidates: int = 4, seed: int = 0
) -> tuple[LastWordQuestion, ...]:
    """Make questions of the sentences of a held-out text, evenly spaced over it.

    The last word is of four letters or more and not capitalised: the others are drawn from such words, and a capital
    would tell. They differ from it in length by one letter at most, are of the nearest to it in frequency in the text,
    and neither begins with the other, since a word is also the beginning of longer ones.

    Args:
        text: One text or several; a sentence lies in one paragraph of one text.
        count: Questions at most.
        candidates: Words to choose from, the true one among them.
        seed: Of the other words and of their order.

    Raises:
        ValueError: If a number is out of range, or the text has no sentence that makes a question.

    Example:
        >>> text = "The ship came slowly into the port. It lay there under a cold moon."
        >>> last_word_choices(text)[0]
        LastWordQuestion(context='The ship came slowly into the', words=('into', 'port', 'moon', 'ship'), answer=1)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if candidates < 2:
        raise ValueError(f"candidates must be at least 2, got {candidates}")
    texts = [text] if isinstance(text, str) else list(text)
    frequencies = Counter(word for each in texts for word in _LETTERS.findall(each) if _is_plain(word))
    others = _Others(frequencies)
    sentences = [ending for each in texts for ending in _endings(each)]
    draw = random.Random(seed)
    questions = []
    for index in evenly_spaced(len(sentences), count):
        context, word = sentences[index]
        words = others.draw(word, candidates - 1, draw)
        if words is None:
            continue
        answer = draw.randrange(candidates)
        questions.append(LastWordQuestion(context, (*words[:answer], word, *words[answer:]), answer))
    if not questions:
        raise ValueError(
            f"text must have sentences of {_CONTEXT_WORDS[0]} words and one of four letters, with {candidates - 1} "
            f"others of its length, got {len(sentences)} sentences and {len(frequencies)} different words"
        )
    return tuple(questions)


def evaluate_last_word(
    network: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[LastWordQuestion],
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> LastWordResult:
    """Measure how often the true word is the most probable of a question's, and of all that could be said.

    Words that are equally probable share the point, as a guess among them would; a network that diverged gives
    NaN for a choice. Chance is one in as many as there are words, and for the greedy word the commonest
    answer of all questions.

    Args:
        network: ``network(input_ids=...)`` gives logits ``[b, T, V]`` or an object with ``.logits``.
        tokenizer: The network's own.
        questions: The same ones for all networks of a comparison.
        batch_size: Candidate words at a time.
        device: Where the network is; by default that of its first parameter.
        max_tokens: Tokens read at a time; by default the network's ``max_position_embeddings``.
        progress: Called with the questions done and the questions in all, after each batch.
        limit: Questions at most, evenly spaced.

    Returns:
        The measures with their per-question items.

    Raises:
        ValueError: If there are no questions, one is none, the tokenizer has no token for a word, or a number is out
            of range.
    """
    started = time.perf_counter()
    if not questions:
        raise ValueError("questions must have at least one question, got none")
    chosen = [questions[index] for index in evenly_spaced(len(questions), limit)]
    rows = _rows(tokenizer, chosen)
    ends = np.cumsum([len(question.words) for question in chosen])
    scores = score_rows(
        network,
        rows,
        batch_size=batch_size,
        device=device,
        max_tokens=max_tokens,
        progress=None if progress is None else lambda done, _: progress(int((ends <= done).sum()), len(ends)),
    )
    by_question = [scores[end - len(each.words) : end] for end, each in zip(ends, chosen, strict=True)]
    sizes = [np.array([len(word.encode()) for word in question.words]) for question in chosen]
    totals = [np.array([score.nats.sum() for score in each]) for each in by_question]
    answers = [question.answer for question in chosen]
    right = np.array([_point(*each) for each in zip(totals, answers, strict=True)])
    normed = [_point(total / size, at) for total, size, at in zip(totals, sizes, answers, strict=True)]
    greedy = [bool(each[at].correct.all()) for each, at in zip(by_question, answers, strict=True)]
    true_words = [question.words[question.answer] for question in chosen]
    commonest = Counter(true_words).most_common(1)[0][0]
    ones = np.ones(len(chosen))
    one_in = np.array([1 / len(question.words) for question in chosen])
    usual = np.array([word == commonest for word in true_words], float)
    return LastWordResult(
        measures=(
            Measure("last_word", right, ones, one_in, True, "%"),
            Measure("last_word_greedy", np.array(greedy, float), ones, usual, True, "%"),
        ),
        per_byte=float(np.mean(normed)),
        seconds=time.perf_counter() - started,
    )


def _endings(text: str) -> Iterator[tuple[str, str]]:
    """Sentences that make a question, as what stands before the last word and that word."""
    least, most = _CONTEXT_WORDS
    for paragraph in _PARAGRAPH.split(text):
        for sentence in _SENTENCE.split(" ".join(paragraph.split())):
            match = _ENDING.fullmatch(sentence)
            if match and _is_plain(match[2]) and least <= len(match[1].split()) <= most:
                yield match[1], match[2]


def _is_plain(word: str) -> bool:
    return word == word.lower()  # also true of scripts without case


class _Others:
    """Words of a text, to be drawn by length and frequency."""

    def __init__(self, frequencies: Counter[str]) -> None:
        self._frequencies = frequencies
        self._by_length: dict[int, list[str]] = {}
        for word in frequencies:
            self._by_length.setdefault(len(word), []).append(word)

    def draw(self, word: str, count: int, draw: random.Random) -> tuple[str, ...] | None:
        """``count`` words like ``word``, or nothing if there are fewer."""
        lengths = (len(word) - 1, len(word), len(word) + 1)
        known = [
            other
            for length in lengths
            for other in self._by_length.get(length, [])
            if not other.startswith(word) and not word.startswith(other)
        ]
        if len(known) < count:
            return None
        here = math.log(self._frequencies[word])
        # most words occur once or twice: among equals, chance decides
        distance = {other: (abs(math.log(self._frequencies[other]) - here), draw.random()) for other in known}
        nearest = heapq.nsmallest(max(_NEAREST, count), known, key=distance.__getitem__)
        return tuple(draw.sample(nearest, count))


def _rows(tokenizer: PreTrainedTokenizerBase, questions: Sequence[LastWordQuestion]) -> list[Row]:
    """The candidates of all questions, each scored from where its question's texts differ."""
    contexts = encode_all(tokenizer, [question.context for question in questions])
    texts = [f"{question.context} {word}" for question in questions for word in question.words]
    ended = iter(encode_all(tokenizer, texts))
    rows = []
    for question, context in zip(questions, contexts, strict=True):
        wholes = [next(ended) for _ in question.words]
        first = common_prefix(context, *wholes)
        for word, whole in zip(question.words, wholes, strict=True):
            if len(whole) == first:
                raise ValueError(f"the tokenizer gives {word!r} no token after {question.context[-40:]!r}")
            rows.append(Row(whole, first))
    return rows


def _point(nats: NDArray[np.float64], answer: int) -> float:
    """1 where the answer costs least, a share of it where others cost no more; NaN where any is not a number."""
    if np.isnan(nats).any():
        return math.nan
    least = nats == nats.min()
    return float(least[answer] / least.sum())
