r"""How well a causal language model predicts a text, whatever its tokenizer.

    text -> spans of whole words -> tokens of this tokenizer -> nats of all after the first word -> bits per byte
                                                            \-> words guessed token by token -> next word

Windows of tokens are items of one tokenizer; a span is a stretch of text, so networks with different
tokenizers can be compared span by span. What is counted is the same for all of them: the bytes after the
first word of a span, white space included, and the nats of every token that the first word alone would not
have had. The first word is context. A token that reaches from the first word into the second is counted
whole, so no tokenizer gains by its borders. No special token is read or counted.

Bits per byte is the length of a code only where the tokens give the text back; spans where they do not (another
case, other white space, an unknown token) are counted and told.

Chance is, as for windows, a network that knows how often each token occurs and nothing of the context. It
depends on the tokenizer: for a comparison the reference's is handed to the others.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fulgurite.evaluation.language import token_probabilities
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.scoring import (
    Row,
    Scores,
    common_prefix,
    encode_all,
    evenly_spaced,
    score_rows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# scripts without white space, and what is no text, are cut after 64 characters
_WORD = re.compile(r"\S{1,64}")
_NATS_PER_BIT = float(np.log(2))


@dataclass(frozen=True)
class SpanResult:
    """What one pass over the spans of a text found.

    Args:
        measures: ``bits_per_byte`` and ``next_word``, one item a span.
        tokens: Scored tokens; depends on the tokenizer.
        bytes: Bytes after the first words; does not.
        lossy: Spans that their tokens do not give back: there the bits are too few.
        seconds: Time of the pass.
    """

    measures: tuple[Measure, ...]
    tokens: int
    bytes: int
    lossy: int
    seconds: float


def cut_spans(text: str, num_bytes: int) -> tuple[str, ...]:
    """Cut a text into stretches of whole words, of at most ``num_bytes`` bytes where two words are no more.

    White space between two spans belongs to neither. What is left at the end is dropped, so that all spans
    weigh about the same.

    Args:
        text: Any text.
        num_bytes: Bytes of UTF-8, such as ``int(windows.num_bytes.double().mean())`` of a reference.

    Raises:
        ValueError: If ``num_bytes`` is below 1, or the text is too short for one span.
    """
    if num_bytes < 1:
        raise ValueError(f"num_bytes must be at least 1, got {num_bytes}")
    spans = []
    begin = end = size = words = 0
    for word in _WORD.finditer(text):
        added = len(text[end : word.end()].encode())
        if words >= 2 and size + added > num_bytes:
            spans.append(text[begin:end])
            words = 0
        if words == 0:
            begin, size, added = word.start(), 0, len(word[0].encode())
        end, size, words = word.end(), size + added, words + 1
    if not spans:
        raise ValueError(f"text must be longer than one span of {num_bytes} bytes, got {len(text.encode())}")
    return tuple(spans)


def evaluate_spans(
    network: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    spans: Sequence[str],
    *,
    unigram: Tensor | None = None,
    chance: NDArray[np.float64] | None = None,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> SpanResult:
    """Measure bits per byte and whole words guessed, span by span.

    A word is guessed where each of its tokens is the most probable one after the true text before it, white
    space in front of the word included. Its chance is to say the spans' most frequent word always.

    Args:
        network: ``network(input_ids=...)`` gives logits ``[b, T, V]`` or an object with ``.logits``.
        tokenizer: The network's own, a fast one.
        spans: Stretches of text of two words or more, the same ones for all networks of a comparison.
        unigram: Probability of each token of this tokenizer in the training text, ``[V]``; as for
            ``evaluate_language``. Not used where ``chance`` is given.
        chance: ``chance_items`` of the reference's ``bits_per_byte``, ``[n]``.
        batch_size: Spans at a time.
        device: Where the network is; by default that of its first parameter.
        max_tokens: Tokens read at a time; by default the network's ``max_position_embeddings``. A longer span is
            read in pieces that overlap.
        progress: Called with the spans done and the spans in all, after each batch.
        limit: Spans at most, evenly spaced.

    Returns:
        The measures with their per-span items. A network that diverged gives NaN items, not an error.

    Raises:
        ValueError: If there are no spans, one has no second word, the tokenizer is not a fast one, the shapes do
            not fit, or a number is out of range.
    """
    started = time.perf_counter()
    if not spans:
        raise ValueError("spans must have at least one span, got none")
    chosen = [spans[index] for index in evenly_spaced(len(spans), limit)]
    starts = [_first_word_end(span, index) for index, span in enumerate(chosen)]
    firsts = encode_all(tokenizer, [span[:start] for span, start in zip(chosen, starts, strict=True)])
    rows, token_ends, lossy = [], [], 0
    for span, first, (tokens, ends) in zip(chosen, firsts, _encoded(tokenizer, chosen), strict=True):
        rows.append(_row(tokens, common_prefix(first, tokens), span))
        token_ends.append(ends)
        lossy += not _gives_back(tokenizer, tokens, span)
    if chance is None:
        chance = _chance(rows, unigram)
    if np.shape(chance) != (len(chosen),):
        raise ValueError(f"chance must be {[len(chosen)]}, one item a span, got {list(np.shape(chance))}")
    scores = score_rows(
        network, rows, batch_size=batch_size, device=device, max_tokens=max_tokens, progress=progress
    )
    num_bytes = np.array([len(span[at:].encode()) for span, at in zip(chosen, starts, strict=True)], float)
    bits = np.array([score.nats.sum() / _NATS_PER_BIT for score in scores])
    words = [[word.end() for word in _WORD.finditer(*each)] for each in zip(chosen, starts, strict=True)]
    count = np.array([len(ends) for ends in words], float)
    guessed = [
        len(ends) - len(_missed(score, tokens, ends))
        for score, tokens, ends in zip(scores, token_ends, words, strict=True)
    ]
    return SpanResult(
        measures=(
            Measure("bits_per_byte", bits, num_bytes, chance, False, "bits/byte"),
            Measure("next_word", np.array(guessed, float), count, _commonest(chosen, starts), True, "%"),
        ),
        tokens=sum(len(row.tokens) - row.first for row in rows),
        bytes=int(num_bytes.sum()),
        lossy=lossy,
        seconds=time.perf_counter() - started,
    )


def span_chance(
    tokenizer: PreTrainedTokenizerBase, spans: Sequence[str], unigram: Tensor | None = None
) -> NDArray[np.float64]:
    """What ``evaluate_spans`` takes for chance with this tokenizer, ``[n]``: to hand it to others.

    Raises:
        ValueError: As ``evaluate_spans``.
    """
    starts = [_first_word_end(span, index) for index, span in enumerate(spans)]
    firsts = encode_all(tokenizer, [span[:start] for span, start in zip(spans, starts, strict=True)])
    encoded = zip(spans, firsts, _encoded(tokenizer, spans), strict=True)
    return _chance(
        [_row(tokens, common_prefix(first, tokens), span) for span, first, (tokens, _) in encoded], unigram
    )


def _first_word_end(span: str, index: int) -> int:
    """Where counting begins; ``index`` is for the error."""
    words = _WORD.finditer(span)
    first, second = next(words, None), next(words, None)
    if first is None or second is None:
        raise ValueError(f"a span must have two words or more, got {span!r} at {index}")
    return first.end()


def _encoded(
    tokenizer: PreTrainedTokenizerBase, spans: Sequence[str]
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Tokens of each span, and where in the span each ends."""
    if not tokenizer.is_fast:
        raise ValueError(
            "tokenizer must be a fast one, which alone knows where each token ends, "
            f"got {type(tokenizer).__name__}"
        )
    # not verbose: it would warn of texts longer than the network, which are read in pieces
    encoded: Any = tokenizer(
        list(spans), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield tuple(ids), list(accumulate((end for _, end in offsets), max))


def _row(tokens: tuple[int, ...], first: int, span: str) -> Row:
    if first == len(tokens):
        raise ValueError(f"the tokenizer gives the words after the first of {span[:40]!r} no token")
    return Row(tokens, first)


def _gives_back(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], span: str) -> bool:
    text = str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
    return text.lstrip(" ") == span.lstrip(" ")  # some put a space in front of every text


def _chance(rows: Sequence[Row], unigram: Tensor | None) -> NDArray[np.float64]:
    """Bits of each span for who knows the frequencies only, ``[n]``."""
    scored = [torch.tensor(row.tokens[row.first :]) for row in rows]
    bits = -token_probabilities(torch.cat(scored), unigram).log2()
    return torch.stack([bits[tokens].sum() for tokens in scored]).numpy()


def _missed(score: Scores, token_ends: Sequence[int], word_ends: Sequence[int]) -> set[int]:
    """Words of which a token was guessed wrongly; white space belongs to the word that it precedes."""
    begins = [0, *token_ends[:-1]]
    count = len(score.correct)
    missed: set[int] = set()
    for correct, begin, end in zip(score.correct, begins[-count:], token_ends[-count:], strict=True):
        if not correct:
            last = bisect_left(word_ends, end)
            # a token that is a later part of one character begins where it ends
            first = min(bisect_right(word_ends, begin), last)
            missed.update(range(first, min(last + 1, len(word_ends))))
    return missed


def _commonest(spans: Sequence[str], starts: Sequence[int]) -> NDArray[np.float64]:
    """How often each span has the word that all together have most often, ``[n]``."""
    counts = [Counter(word[0] for word in _WORD.finditer(*each)) for each in zip(spans, starts, strict=True)]
    total = sum(counts, Counter[str]())
    word = max(total, key=lambda each: total[each])
    return np.array([count[word] for count in counts], float)
