"""The kinds of tokenizers, by the name that the backend's state gives them."""

from __future__ import annotations

from typing import Any

from fulgurite.vocabulary.bpe import BpePieces
from fulgurite.vocabulary.pieces import Pieces
from fulgurite.vocabulary.unigram import UnigramPieces
from fulgurite.vocabulary.wordpiece import WordPieces


def read_pieces(state: dict[str, Any]) -> Pieces:
    """How a tokenizer cuts text.

    Args:
        state: Its backend's, see ``_backend.read_state``.
    """
    kinds: dict[str, type[BpePieces | UnigramPieces | WordPieces]] = {
        "BPE": BpePieces,
        "Unigram": UnigramPieces,
        "WordPiece": WordPieces,
    }
    return kinds[state["model"]["type"]](state)
