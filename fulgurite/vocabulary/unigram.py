"""Unigram: a text is cut so that the log-probabilities of its pieces add up to the most.

Reference: Kudo, "Subword Regularization: Improving Neural Network Translation Models with Multiple Subword
Candidates", ACL 2018, https://arxiv.org/abs/1804.10959, section 3.2.
A cut into kept pieces that was the best of all is the best of those that are left.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from typing_extensions import override

from fulgurite.vocabulary.pieces import Pieces, byte_pieces, has_byte_fallback, markers

# what the tokenizers library takes off the least score for a character that it has no piece for
_UNKNOWN_PENALTY = 10.0


class UnigramPieces(Pieces):
    """Pieces of a tokenizer of kind ``Unigram``, with byte fallback or without.

    Args:
        state: The tokenizer's, see ``_backend.read_state``.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        listed = state["model"]["vocab"]
        self._take({piece: token for token, (piece, _) in enumerate(listed)})
        self._scores = [float(score) for _, score in listed]
        self._unknown = min(self._scores) - _UNKNOWN_PENALTY
        self._longest = max(map(len, self.vocabulary))
        self._bytes = has_byte_fallback(state)
        self._markers = markers(state)
        self.limited = not self._bytes
        characters = {token for piece, token in self.vocabulary.items() if len(piece) == 1}
        if self._bytes:
            characters = {token for token in characters if self._texts[token] in self._markers}
            characters |= byte_pieces(self.vocabulary)
        self.fallback = frozenset(characters)

    @override
    def spell(self, token: int, kept: AbstractSet[int]) -> list[int] | None:
        text = self._texts.get(token, "")
        if not text or token in self.fallback:
            return None
        best: list[tuple[float, list[int]] | None] = [(0.0, []), *[None] * len(text)]
        for start in range(len(text)):
            so_far = best[start]
            if so_far is None:
                continue
            for end in range(start + 1, min(len(text), start + self._longest) + 1):
                step = self._step(text[start:end], token, kept)
                if step is None:
                    continue
                score = so_far[0] + step[0]
                reached = best[end]
                if reached is None or score > reached[0]:
                    best[end] = (score, so_far[1] + step[1])
        whole = best[-1]
        return None if whole is None else whole[1]

    @override
    def spell_out(self, token: int) -> list[int] | None:
        if token in self.fallback:  # a byte piece's text is not its characters
            return [token]
        spelt: list[int] = []
        for character in self._texts.get(token, ""):
            # no piece is shorter, so there is nothing to choose between
            step = self._step(character, -1, self.fallback)
            if step is None:
                return None
            spelt += step[1]
        return spelt or None

    def _step(self, piece: str, without: int, kept: AbstractSet[int]) -> tuple[float, list[int]] | None:
        """Score and tokens of one piece, of a character's bytes where it has none."""
        found = self.vocabulary.get(piece)
        if found is not None and found != without and found in kept:
            return self._scores[found], [found]
        if len(piece) == 1 and self._bytes and piece not in self._markers:
            return self._unknown, self._bytes_of(piece)
        return None
