"""WordPiece: a word is cut from its start, the longest piece of the vocabulary each time.

Reference: Wu et al., "Google's Neural Machine Translation System: Bridging the Gap between Human and Machine
Translation", 2016, https://arxiv.org/abs/1609.08144, section 4.1; the greedy cut is that of BERT,
https://arxiv.org/abs/1810.04805.
A word that was cut into kept pieces is cut the same without the others: each was the longest there was.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from typing_extensions import override

from fulgurite.vocabulary.pieces import Pieces


class WordPieces(Pieces):
    """Pieces of a tokenizer of kind ``WordPiece``; without all of a word's characters the word is unknown.

    Args:
        state: The tokenizer's, see ``_backend.read_state``.
    """

    limited = True

    def __init__(self, state: dict[str, Any]) -> None:
        model = state["model"]
        self._take(dict(model["vocab"]))
        self._prefix: str = model["continuing_subword_prefix"]
        self.fallback = frozenset(
            token for piece, token in self.vocabulary.items() if len(self._split(piece)[1]) == 1
        )

    @override
    def spell(self, token: int, kept: AbstractSet[int]) -> list[int] | None:
        first, body = self._split(self._texts.get(token, ""))
        if not body:
            return None
        spelt: list[int] = []
        start = 0
        while start < len(body):
            mark = self._prefix if start else first
            for end in range(len(body), start, -1):
                found = self.vocabulary.get(mark + body[start:end])
                if found is not None and found != token and found in kept:
                    spelt.append(found)
                    start = end
                    break
            else:
                return None
        return spelt

    @override
    def num_bytes(self, token: int) -> int:
        return len(self._split(self._texts.get(token, ""))[1].encode())

    def _split(self, piece: str) -> tuple[str, str]:
        """The mark in front of a piece, where it continues a word, and its own characters."""
        if self._prefix and piece.startswith(self._prefix) and len(piece) > len(self._prefix):
            return self._prefix, piece.removeprefix(self._prefix)
        return "", piece
