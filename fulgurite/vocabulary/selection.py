"""Which tokens of a vocabulary to keep for a given size.

    counts | scores -> take out the token that costs least, its text going to the tokens it is then spelt with,
    again and again, until `size` are left -> ids

Taking out instead of putting in, so that a token is judged by what is spelt with it at that moment: a BPE token
that text ends in never, but that hundreds of others are made of, must be judged with what falls to it.
Reference: Purason et al., "Teaching Old Tokenizers New Words: Efficient Tokenizer Adaptation for Pre-trained
Models", 2025, https://arxiv.org/abs/2512.03989 (pruning of tokens that no merge needs, by frequency).
Differs: the counts of what is removed pass to its parts; WordPiece and Unigram too; any score in place of counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fulgurite.vocabulary._backend import all_tokens, id_count, read_state, special_ids
from fulgurite.vocabulary.kinds import read_pieces
from fulgurite.vocabulary.pieces import Pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def select_tokens(
    tokenizer: PreTrainedTokenizerFast,
    size: int,
    counts: Tensor | None = None,
    *,
    scores: Tensor | None = None,
    min_count: int = 0,
) -> Tensor:
    """Choose the tokens that matter most for a text, and those that every text needs.

    With counts alone a token costs the tokens that the text is longer without it. With scores alone, its score,
    whatever else is gone. With both, the score is that of ``counts`` occurrences; what passes to a token with
    its neighbours' removal costs as much each time, or the mean where it occurred never.

    Args:
        tokenizer: BPE, WordPiece or Unigram.
        size: Tokens to keep.
        counts: How often each token occurs in the text, ``[len(tokenizer)]``; see ``token_counts``.
        scores: What the text loses in all when a token is spelt with others, ``[len(tokenizer)]``.
        min_count: Give up characters of an open-ended fallback (WordPiece, Unigram, BPE of characters) that the
            text has less often. Text with them is then unknown. Bytes are never given up.

    Returns:
        Ids in ascending order, ``int64 [size]``.

    Raises:
        ValueError: If the essential tokens are more than ``size``, ``size`` is more than there are, neither
            counts nor scores are given, or they are not one finite number from 0 a token.
    """
    tokens = all_tokens(tokenizer)
    if counts is None and scores is None:
        raise ValueError("select_tokens needs counts or scores, got neither")
    uses = None if counts is None else _numbers("counts", counts, id_count(tokenizer))
    worth = None if scores is None else _numbers("scores", scores, id_count(tokenizer))
    if size > len(tokens):
        raise ValueError(f"size must be at most the tokenizer's {len(tokens)} tokens, got {size}")
    state = read_state(tokenizer)
    pieces = read_pieces(state)
    essential = _essential(pieces, special_ids(tokenizer, state), uses, min_count)
    held = {token for group in essential.values() for token in group.tolist()}
    if len(held) > size:
        raise ValueError(_too_small(tokens, pieces, essential, uses, size))
    return torch.tensor(sorted(_prune(pieces, set(tokens), held, uses, worth, size)), dtype=torch.int64)


def essential_tokens(
    tokenizer: PreTrainedTokenizerFast, counts: Tensor | None = None, *, min_count: int = 0
) -> dict[str, Tensor]:
    """Tokens that are always kept, by the reason for it; each in one group.

    Args:
        tokenizer: BPE, WordPiece or Unigram.
        counts: As for ``select_tokens``.
        min_count: As for ``select_tokens``.

    Returns:
        Ids, ``int64 [n]`` each: ``special`` (and added), ``fallback``, ``unspellable`` (nothing else could stand
        for them) and ``parts`` of these.

    Raises:
        ValueError: If the model is of an unknown kind, or there is a ``min_count`` without counts.
    """
    state = read_state(tokenizer)
    uses = None if counts is None else _numbers("counts", counts, id_count(tokenizer))
    return _essential(read_pieces(state), special_ids(tokenizer, state), uses, min_count)


def _essential(
    pieces: Pieces, special: set[int], counts: list[float] | None, min_count: int
) -> dict[str, Tensor]:
    if min_count < 0 or (min_count and counts is None):
        raise ValueError(f"min_count must be 0 or more, and 0 without counts, got {min_count}")
    spelt_out = {token: pieces.spell_out(token) for token in pieces.vocabulary.values()}
    fallback = set(pieces.fallback)
    unspellable = {
        token
        for token, spelt in spelt_out.items()
        if spelt is None and pieces.occurs(token) and token not in special
    }
    if counts is not None and min_count and pieces.limited:
        letters = _letters(spelt_out, counts)
        fallback = {token for token in fallback if letters.get(token, 0.0) >= min_count}
        unspellable = {token for token in unspellable if counts[token] >= min_count}
    groups = {"special": special, "fallback": fallback, "unspellable": unspellable}
    groups["parts"] = _closure(pieces, set().union(*groups.values()))
    taken: set[int] = set()
    essential: dict[str, Tensor] = {}
    for name, group in groups.items():
        essential[name] = torch.tensor(sorted(group - taken), dtype=torch.int64)
        taken |= group
    return essential


def _prune(
    pieces: Pieces,
    kept: set[int],
    held: AbstractSet[int],
    counts: list[float] | None,
    scores: list[float] | None,
    size: int,
) -> set[int]:
    """Take out tokens that are not ``held`` and that no kept token needs, the cheapest first."""
    uses = dict(enumerate(counts)) if counts is not None else {}
    rates = _rates(counts, scores)
    needed: dict[int, int] = {}
    for token in kept:
        for part in pieces.needs(token):
            needed[part] = needed.get(part, 0) + 1

    def cost(token: int) -> float:
        if not pieces.occurs(token):
            return -1.0  # no text ever has it
        if rates is not None:
            return rates[token] * uses.get(token, 1.0)
        if not uses[token]:
            return 0.0  # saves a search: most tokens of a large vocabulary
        spelt = pieces.spell(token, kept)
        return uses[token] * (pieces.num_bytes(token) if spelt is None else len(spelt) - 1)

    # of equal cost the later goes first: vocabularies are made in the order of use
    free = [(cost(token), -token) for token in kept if token not in held and not needed.get(token)]
    heapq.heapify(free)
    while len(kept) > size:
        seen, negative = heapq.heappop(free)
        token = -negative
        now = cost(token)
        if now > seen and free and (now, negative) > free[0]:  # costs only grow as others go
            heapq.heappush(free, (now, negative))
            continue
        kept.remove(token)
        if uses.get(token):
            for part in pieces.spell(token, kept) or ():
                uses[part] = uses.get(part, 0.0) + uses[token]
        for part in pieces.needs(token):
            needed[part] -= 1
            if not needed[part] and part not in held:
                heapq.heappush(free, (cost(part), -part))
    return kept


def _rates(counts: list[float] | None, scores: list[float] | None) -> list[float] | None:
    """What one occurrence costs; without counts, what all of them do."""
    if scores is None or counts is None:
        return scores
    total = sum(counts)
    mean = sum(score for score, count in zip(scores, counts, strict=True) if count) / total if total else 0.0
    return [score / count if count else mean for score, count in zip(scores, counts, strict=True)]


def _closure(pieces: Pieces, tokens: AbstractSet[int]) -> set[int]:
    """The tokens with all that they are merged from."""
    found: set[int] = set()
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in found:
            found.add(token)
            waiting += pieces.needs(token)
    return found


def _letters(spelt_out: dict[int, list[int] | None], counts: list[float]) -> dict[int, float]:
    """How often the text has each fallback token once all of it is spelt out."""
    letters: dict[int, float] = {}
    for token, spelt in spelt_out.items():
        if counts[token]:
            for letter in spelt or ():
                letters[letter] = letters.get(letter, 0.0) + counts[token]
    return letters


def _too_small(
    tokens: dict[int, str],
    pieces: Pieces,
    essential: dict[str, Tensor],
    counts: list[float] | None,
    size: int,
) -> str:
    """Say what does not fit, and what of the text would be lost if as much of the fallback went as must."""
    total = sum(len(group) for group in essential.values())
    listed = []
    for name, group in essential.items():
        if len(group):
            shown = ", ".join(repr(tokens[token]) for token in group[:3].tolist())
            listed.append(f"{len(group)} {name} ({shown}{', ...' if len(group) > 3 else ''})")
    message = f"size must be at least {total} to encode every text: {', '.join(listed)}; got {size}"
    if counts is None:
        return message
    letters = _letters({token: pieces.spell_out(token) for token in pieces.vocabulary.values()}, counts)
    fallback = essential["fallback"].tolist()
    sizes = sorted(letters.get(token, 0.0) * pieces.num_bytes(token) for token in fallback)
    lost, whole = sum(sizes[: total - size]), sum(sizes)
    message += (
        f"; with the least used gone, {lost:.0f} of the text's {whole:.0f} bytes would fall back to unknown"
    )
    return message + ("; min_count gives up rare characters" if pieces.limited else "")


def _numbers(name: str, values: Tensor, length: int) -> list[float]:
    if values.shape != (length,) or not torch.isfinite(values.double()).all() or (values < 0).any():
        raise ValueError(
            f"{name} must be [{length}] finite numbers from 0, one a token, got {list(values.shape)}"
            + (f" from {float(values.min())} to {float(values.max())}" if values.numel() else "")
        )
    return [float(value) for value in values.tolist()]
