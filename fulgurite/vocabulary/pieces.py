"""What a token's text becomes when the token is taken out of the vocabulary, for each kind of tokenizer.

token, tokens that are kept -> the tokens that the same text is cut into without it
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set as AbstractSet
from typing import Any

from fulgurite.vocabulary._backend import components

_BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))


class Pieces(ABC):
    """A tokenizer's model, seen from its vocabulary.

    Attributes:
        vocabulary: Id of each piece; tokens that were added beside the model are not in it.
        fallback: What any text can be spelt with, as far as the vocabulary allows.
        limited: Whether the fallback is open-ended (characters), so that rare ones may be given up; bytes are
            not.
    """

    vocabulary: dict[str, int]
    fallback: frozenset[int]
    limited: bool

    @abstractmethod
    def spell(self, token: int, kept: AbstractSet[int]) -> list[int] | None:
        """Cut a token's text without that token.

        Args:
            token: Whose text.
            kept: What may be used; the token itself is not, whether it is in there or not.

        Returns:
            Tokens; ``None`` where some of the text cannot be spelt.
        """

    def spell_out(self, token: int) -> list[int] | None:
        """Cut a token's text with the fallback alone; a fallback token is itself."""
        return [token] if token in self.fallback else self.spell(token, self.fallback)

    def needs(self, token: int) -> tuple[int, ...]:
        """Tokens without which the model cannot arrive at this one."""
        return ()

    def occurs(self, token: int) -> bool:
        """Whether the model can arrive at the token at all."""
        return True

    def num_bytes(self, token: int) -> int:
        """About the bytes of text that a fallback token stands for."""
        piece = self._texts.get(token, "")
        return 1 if piece in _BYTE_PIECES else len(piece.encode())

    def _take(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary
        self._texts = {token: piece for piece, token in vocabulary.items()}

    def _bytes_of(self, text: str) -> list[int]:
        return [self.vocabulary[_BYTE_PIECES[byte]] for byte in text.encode()]


def has_byte_fallback(state: dict[str, Any]) -> bool:
    """Whether every character can be spelt in ``<0x..>`` pieces and decodes again."""
    model = state["model"]
    pieces = model["vocab"] if isinstance(model["vocab"], dict) else {piece for piece, _ in model["vocab"]}
    decoded = any(part.get("type") == "ByteFallback" for part in components(state, "decoder"))
    return bool(model.get("byte_fallback")) and decoded and all(piece in pieces for piece in _BYTE_PIECES)


def byte_pieces(vocabulary: dict[str, int]) -> set[int]:
    """Ids of the ``<0x..>`` pieces."""
    return {vocabulary[piece] for piece in _BYTE_PIECES if piece in vocabulary}


def markers(state: dict[str, Any]) -> set[str]:
    """Characters that the decoder writes as others, such as U+2581 for a space: their bytes would not be."""
    found: set[str] = set()
    for part in components(state, "decoder"):
        if part.get("type") == "Metaspace":
            found.add(part["replacement"])
        elif part.get("type") == "Replace":
            found |= set(part["pattern"].get("String", ""))
    return found
