"""What a causal language model says of given tokens, whatever their number and its tokenizer.

    rows of tokens -> pieces that the network has room for -> padded batches -> nats, correct for each token

Rows are padded behind: in a causal network no real token sees what follows it, so no mask is needed.
A row longer than the network's positions is read in pieces that overlap: each token is scored once, with at
least half of the positions as its context. A token with nothing before it costs a uniform guess, ``ln V``.

Texts are read without special tokens: they are from the middle of a longer one, and a beginning token would say
that it begins. stories260K, whose tokenizer puts one in front, needs 2.4 % more bits a byte after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Row:
    """Tokens to score.

    Args:
        tokens: What is read.
        first: The first token that is scored; those before it are context.

    Raises:
        ValueError: If no token is scored.
    """

    tokens: tuple[int, ...]
    first: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < len(self.tokens):
            raise ValueError(
                f"first must be in [0, {len(self.tokens)}), a row's {len(self.tokens)} tokens, got {self.first}"
            )


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says of the scored tokens of one row.

    Args:
        nats: Negative log-probability of each token after those before it, ``float64 [n]``.
        correct: Whether each was the most probable one, ``bool [n]``.
    """

    nats: NDArray[np.float64]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class _Piece:
    """Tokens ``begin`` to ``stop`` of a row, scored from ``place`` on."""

    row: int
    begin: int
    place: int
    stop: int


def score_rows(
    network: nn.Module,
    rows: Sequence[Row],
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scores]:
    """Score the tokens of each row after those before them.

    The network runs in eval mode without gradients and goes back to the mode it was in. Rows that differ in their
    last token alone, as the letters of a multiple choice do, are read once.

    Args:
        network: ``network(input_ids=...)`` gives logits ``[b, T, V]`` or an object with ``.logits``.
        rows: Tokens and where the scored ones begin.
        batch_size: Rows at a time, the longest first.
        device: Where the network is; by default that of its first parameter.
        max_tokens: Tokens read at a time; by default the network's ``max_position_embeddings``, if it has any.
        batch_tokens: Fill batches of short rows up to so many tokens, padding counted; by default no batch has
            more than ``batch_size`` rows.
        progress: Called with the rows done and the rows in all, after each batch.

    Returns:
        The scores of each row, in order. A network that diverged gives NaN, not an error.

    Raises:
        ValueError: If a number is out of range, the network does not know a token, or the logits do not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if max_tokens is None:
        max_tokens = getattr(getattr(network, "config", None), "max_position_embeddings", None)
    if max_tokens is not None and max_tokens < 2:
        raise ValueError(f"max_tokens must be at least 2, got {max_tokens}")
    _check_known(network, rows)
    if device is None:
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    nats = [np.empty(len(row.tokens) - row.first) for row in rows]
    correct = [np.empty(len(row.tokens) - row.first, dtype=np.bool_) for row in rows]
    pieces = [
        _Piece(index, *piece)
        for index, row in enumerate(rows)
        for piece in _pieces(len(row.tokens), row.first, max_tokens)
    ]
    by_read: dict[tuple[int, ...], list[_Piece]] = {}
    for piece in pieces:
        by_read.setdefault(_read(rows[piece.row].tokens[piece.begin : piece.stop]), []).append(piece)
    left = np.bincount([piece.row for piece in pieces], minlength=len(rows))
    with reading(network):
        for batch in _batches(list(by_read), batch_size, batch_tokens):
            logits = _logits(network, batch, device)
            for read, values in zip(batch, logits, strict=True):
                for piece in by_read[read]:
                    row = rows[piece.row]
                    scored = slice(piece.place - row.first, piece.stop - row.first)
                    text = row.tokens[piece.begin : piece.stop]
                    found = _score(values, text, piece.place - piece.begin)
                    nats[piece.row][scored], correct[piece.row][scored] = found
                    left[piece.row] -= 1
            if progress is not None:
                progress(int((left == 0).sum()), len(rows))
    return [Scores(*found) for found in zip(nats, correct, strict=True)]


@contextmanager
def reading(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards each part is in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():  # parts may be frozen in eval mode while the rest trains
            module.training = training


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokens of each text, without special tokens."""
    if not texts:
        return []
    # not verbose: it would warn of texts longer than the network, which are read in pieces
    encoded: Any = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [tuple(ids) for ids in encoded["input_ids"]]


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` of ``count`` items: the first ones would be one book, or one author.

    Raises:
        ValueError: If ``limit`` allows none.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    kept = count if limit is None else min(limit, count)
    return [index * count // kept for index in range(kept)]


def common_prefix(*texts: Sequence[int]) -> int:
    """How many tokens all texts begin with alike."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False))
    return len(list(alike))


def _pieces(length: int, first: int, limit: int | None) -> Iterator[tuple[int, int, int]]:
    """Where each piece of a row begins, is scored from and stops."""
    if limit is None or length - 1 <= limit:  # the last token is not read
        yield 0, first, length
        return
    place = first
    while place < length:
        begin = max(0, min(place - limit // 2, length - 1 - limit))
        stop = min(length, begin + limit + 1)
        yield begin, place, stop
        place = stop


def _read(text: tuple[int, ...]) -> tuple[int, ...]:
    """What the network reads of a text; one of a single token is read for the size of the vocabulary alone."""
    return text[:-1] or text


def _batches(
    reads: list[tuple[int, ...]], batch_size: int, batch_tokens: int | None
) -> Iterator[list[tuple[int, ...]]]:
    """Rows of one length waste no padding; the longest first, so that a lack of memory shows at once."""
    reads.sort(key=lambda read: -len(read))
    start = 0
    while start < len(reads):
        count = max(batch_size, (batch_tokens or 0) // len(reads[start]))
        yield reads[start : start + count]
        start += count


def _logits(network: nn.Module, reads: Sequence[Sequence[int]], device: torch.device | str) -> Tensor:
    """Logits ``[b, T, V]`` after each token of each text, padded behind."""
    batch = torch.zeros(len(reads), max(map(len, reads)), dtype=torch.long)
    for row, read in zip(batch, reads, strict=True):
        row[: len(read)] = torch.tensor(read)
    output = network(input_ids=batch.to(device))
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    if logits.shape[:2] != batch.shape:
        raise ValueError(
            f"logits must be {[*batch.shape, 'V']}, one row a token read, got {list(logits.shape)}"
        )
    return logits


def _score(logits: Tensor, text: Sequence[int], place: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Nats and correct guesses of ``text[place:]`` by logits ``[T, V]`` of one row."""
    free = max(place, 1)  # the first that something stands before
    # float copies of one row at a time: a vocabulary of 150k takes 0.6 MB a token
    values = logits[free - 1 : len(text) - 1].float()
    targets = torch.tensor(text[free:], dtype=torch.long, device=logits.device)
    nats = (values.logsumexp(-1) - values.gather(-1, targets[:, None])[:, 0]).cpu().double().numpy()
    correct = (values.argmax(-1) == targets).cpu().numpy()
    if place == 0:
        nats = np.concatenate([[np.log(logits.shape[-1])], nats])
        correct = np.concatenate([[False], correct])
    return nats, correct


def _check_known(network: nn.Module, rows: Sequence[Row]) -> None:
    embeddings = getattr(network, "get_input_embeddings", lambda: None)()
    known = getattr(embeddings, "num_embeddings", None)
    largest = max((max(row.tokens) for row in rows), default=0)
    if known is not None and largest >= known:
        raise ValueError(
            f"the tokenizer gives token {largest}, the network knows {known}: is it another network's tokenizer?"
        )
