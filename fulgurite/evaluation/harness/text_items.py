"""Benchmarks out of any text: documents to predict, sentences to end, passages to go on with.

text -> documents, or stretches of some bytes            -> bits per byte
text -> sentences without their last word, four words    -> choice
text -> passages, the true continuation and three others -> choice
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fulgurite.evaluation.last_word import last_word_choices
from fulgurite.evaluation.scoring import evenly_spaced
from fulgurite.evaluation.spans import cut_spans

# a heading of the first level in WikiText: " = Title = ", not " = = Section = = "
_TITLE = re.compile(r"^ = (?!=).*(?<!=) = $", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+")


def cut_documents(
    texts: Sequence[str], *, titles: bool = False, num_bytes: int = 1000
) -> list[dict[str, Any]]:
    """Documents of a text.

    Args:
        texts: Where there are several, each is a document already, unless it is longer than two stretches.
        titles: Cut before WikiText's titles; the joining of lines by two line ends, which some files of it have,
            is undone.
        num_bytes: Else cut whole words into stretches of about so many bytes.

    Returns:
        One ``{"page": ...}`` a document.

    Raises:
        ValueError: If there is too little text.
    """
    if titles:
        pages = [page for text in texts for page in _wiki_pages(text)]
    else:
        pages = []
        for text in texts:
            short = len(texts) > 1 and len(text.encode()) <= 2 * num_bytes
            pages += [text] if short else list(cut_spans(text, num_bytes))
    if not pages:
        raise ValueError('expected titles such as " = Title = " on lines of their own, found none')
    return [{"page": page} for page in pages]


def cut_last_words(texts: Sequence[str], *, count: int = 500) -> list[dict[str, Any]]:
    """Sentences without their last word, and four words of its length and frequency: see ``last_word``."""
    return [
        {"context": question.context, "choices": list(question.words), "answer": question.answer}
        for question in last_word_choices(texts, count=count)
    ]


def cut_choices(
    texts: Sequence[str], *, count: int = 500, candidates: int = 4, seed: int = 0, context: int = 3
) -> list[dict[str, Any]]:
    """Passages, and which of four sentences comes next; the others are from elsewhere and about as long.

    Args:
        texts: Any.
        count: Passages at most, evenly spaced.
        candidates: Sentences to choose from.
        seed: Of the draws.
        context: Sentences in front.

    Raises:
        ValueError: If there are too few sentences.
    """
    sentences: list[tuple[int, str]] = []  # with the paragraph that it is of
    paragraphs = (part for text in texts for part in re.split(r"\n\s*\n", text))
    for number, paragraph in enumerate(paragraphs):
        found = [piece for piece in _SENTENCE.split(" ".join(paragraph.split())) if len(piece.split()) >= 4]
        sentences += [(number, piece) for piece in found]
    places = [
        place
        for place in range(context, len(sentences))
        if sentences[place - context][0] == sentences[place][0]
    ]
    if len({piece for _, piece in sentences}) < 10 * candidates or not places:
        raise ValueError(
            f"expected a text with {10 * candidates} sentences, and paragraphs of {context + 1}, "
            f"found {len(sentences)} sentences and {len(places)} such places"
        )
    draw = random.Random(seed)
    by_length = sorted({piece for _, piece in sentences}, key=lambda piece: (len(piece), piece))
    rank = {piece: index for index, piece in enumerate(by_length)}
    items = []
    for chosen in evenly_spaced(len(places), count):
        place = places[chosen]
        true = sentences[place][1]
        near = {piece for _, piece in sentences[max(0, place - 20) : place + 20]}  # of the same story, maybe
        low = max(0, min(rank[true] - 5 * candidates, len(by_length) - 10 * candidates))
        others = [piece for piece in by_length[low : low + 10 * candidates] if piece not in near]
        if len(others) < candidates - 1:
            continue
        choices = draw.sample(others, candidates - 1)
        answer = draw.randrange(candidates)
        choices.insert(answer, true)
        before = " ".join(piece for _, piece in sentences[place - context : place])
        items.append({"context": before, "choices": choices, "answer": answer})
    if not items:
        raise ValueError("expected sentences of about one length from different places, found too few")
    return items


def _wiki_pages(text: str) -> list[str]:
    if "\n\n\n" in text:  # rows joined by two line ends: an empty row is a line with a space in the original
        text = re.sub(r"\n{3,}", lambda found: "\n" + " \n" * ((len(found[0]) - 3) // 2), text.lstrip("\n"))
    starts = [found.start() for found in _TITLE.finditer(text)]
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]
