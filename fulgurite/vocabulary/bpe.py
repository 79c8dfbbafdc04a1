"""Byte-pair encoding: a token is arrived at by merges of two parts, and spelt by them when it is gone.

    word -> characters (or bytes) -> the applicable merge of lowest rank, again and again -> tokens

Reference: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016,
https://arxiv.org/abs/1508.07909, section 3.2.

Merges never cross the border of a token that a word ends up with, and those inside it are made in the order that
the token's text alone would have. So each token has one pair of parts, however many merges of the list would
give its text, and without that pair it is never arrived at. Conversely, a text cut into kept tokens only made
merges of kept tokens only; with the others gone it is cut the same.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any

from typing_extensions import override

from fulgurite.vocabulary._backend import components
from fulgurite.vocabulary.pieces import Pieces, byte_pieces, has_byte_fallback, markers


class BpePieces(Pieces):
    """Merges of a tokenizer of kind ``BPE``: byte-level, with byte fallback, or of characters.

    Args:
        state: The tokenizer's, see ``_backend.read_state``.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        model = state["model"]
        self._take(dict(model["vocab"]))
        self._prefix: str = model.get("continuing_subword_prefix") or ""
        self._suffix: str = model.get("end_of_word_suffix") or ""
        self._ranks = {pair: rank for rank, pair in enumerate(read_merges(model))}
        self._whole_words = bool(model.get("ignore_merges"))
        self._bytes = has_byte_fallback(state)
        self._markers = markers(state)
        byte_level = any(
            part.get("type") == "ByteLevel" for part in components(state, "pre_tokenizer", "normalizer")
        )
        alphabet = _byte_alphabet() if byte_level else None
        symbols = {
            token
            for piece, token in self.vocabulary.items()
            if len(body := self._split(piece)[1]) == 1 and (alphabet is None or body in alphabet)
        }
        self.limited = not byte_level and not self._bytes
        if self._bytes:
            symbols = {token for token in symbols if self._texts[token] in self._markers}
            symbols |= byte_pieces(self.vocabulary)
        self.fallback = frozenset(symbols)
        self._needs: dict[int, tuple[int, ...]] = {}
        self._parts: dict[int, tuple[int, ...] | None] = {}
        for piece, token in self.vocabulary.items():
            self._derive(piece, token)

    @override
    def spell(self, token: int, kept: AbstractSet[int]) -> list[int] | None:
        parts = self._parts.get(token)
        if parts is None:
            return None
        spelt: list[int] = []
        for part in parts:
            # parts are shorter than the whole, down to the fallback, so this ends
            deeper = [part] if part in kept else self.spell(part, kept)
            if deeper is None:
                return None
            spelt += deeper
        return spelt

    @override
    def needs(self, token: int) -> tuple[int, ...]:
        return self._needs.get(token, ())

    @override
    def occurs(self, token: int) -> bool:
        return self._whole_words or token in self._needs

    def _derive(self, piece: str, token: int) -> None:
        """Find the merge that a token comes from, and the tokens that its text is cut into without it."""
        symbols = self._symbols(piece)
        if symbols == [piece]:
            self._needs[token] = ()
            spelt_in_bytes = self._bytes and piece not in self._markers and token not in self.fallback
            self._parts[token] = tuple(self._bytes_of(piece)) if spelt_in_bytes else None
            return
        pair, never = None, len(self._ranks)
        while len(symbols) > 1:
            ranks = [self._ranks.get(near, never) for near in pairwise(symbols)]
            lowest = min(ranks)
            if lowest == never:
                break
            at = ranks.index(lowest)
            pair = (symbols[at], symbols[at + 1])
            symbols[at : at + 2] = [self._joined(*pair)]
        if symbols == [piece] and pair is not None:
            symbols = list(pair)
            self._needs[token] = (self.vocabulary[pair[0]], self.vocabulary[pair[1]])
        self._parts[token] = None if "" in symbols else tuple(self.vocabulary[symbol] for symbol in symbols)

    def _symbols(self, piece: str) -> list[str]:
        """What merging starts with; an empty string for what the vocabulary has nothing for."""
        prefix, body, suffix = self._split(piece)
        if not body:
            return [""]
        symbols: list[str] = []
        for at, character in enumerate(body):
            before = self._prefix if at else prefix
            symbol = before + character + (suffix if at == len(body) - 1 else "")
            if symbol in self.vocabulary:
                symbols.append(symbol)
            elif self._bytes and not set(symbol) & self._markers:
                symbols += [f"<0x{byte:02X}>" for byte in symbol.encode()]
            else:
                symbols.append("")
        return symbols

    def _split(self, piece: str) -> tuple[str, str, str]:
        """The marks of a piece's place in a word, before and after its own characters."""
        prefix = self._prefix if piece.startswith(self._prefix) and len(piece) > len(self._prefix) else ""
        body = piece.removeprefix(prefix)
        suffix = self._suffix if body.endswith(self._suffix) and len(body) > len(self._suffix) else ""
        return prefix, body.removesuffix(suffix), suffix

    def _joined(self, left: str, right: str) -> str:
        return left + right[len(self._prefix) :]


def read_merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Merges in the order of their ranks, from pairs or from strings with a space, as older files have them."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _byte_alphabet() -> set[str]:
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet())
