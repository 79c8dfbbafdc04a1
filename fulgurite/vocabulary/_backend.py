"""A fast tokenizer's state as JSON, and what in it names tokens.

The backend's own serialisation is the one description that all classes of transformers share:
https://huggingface.co/docs/tokenizers/api/tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KINDS = ("BPE", "Unigram", "WordPiece")

# the parts of a tokenizer's state that are made of components, some of them sequences of others
_COMPONENTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def read_state(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The backend's state.

    Raises:
        ValueError: If it is no fast tokenizer, or its model is none of ``KINDS``.
    """
    state: dict[str, Any] = json.loads(_backend(tokenizer).to_str())
    kind = state["model"].get("type")
    if kind not in KINDS:
        raise ValueError(f"tokenizer's model must be one of {', '.join(KINDS)}, got {kind}")
    return state


def bare_backend(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A copy of the backend that neither cuts nor pads."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(_backend(tokenizer).to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def all_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Every token by its id, in the order of ids, the added ones included.

    Raises:
        ValueError: If it is no fast tokenizer.
    """
    vocabulary: dict[str, int] = _backend(tokenizer).get_vocab(with_added_tokens=True)
    return {token: piece for piece, token in sorted(vocabulary.items(), key=lambda entry: entry[1])}


def id_count(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows of an embedding that has one for each id: more than there are tokens where ids have gaps."""
    return max(len(tokenizer), max(all_tokens(tokenizer), default=-1) + 1)


def components(state: dict[str, Any], *places: str) -> Iterator[dict[str, Any]]:
    """Components of the state that stand alone, sequences opened.

    Args:
        state: Of a tokenizer.
        places: Some of ``normalizer``, ``pre_tokenizer``, ``post_processor``, ``decoder``; all by default.
    """

    def opened(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, list):
            for item in part:
                yield from opened(item)
        elif isinstance(part, dict):
            if part.get("type") == "Sequence":
                for key in ("normalizers", "pretokenizers", "processors", "decoders"):
                    yield from opened(part.get(key))
            else:
                yield part

    for place in places or _COMPONENTS:
        yield from opened(state.get(place))


def special_ids(tokenizer: PreTrainedTokenizerFast, state: dict[str, Any]) -> set[int]:
    """Tokens that no text may lose: added ones, the unknown one, and those put around a text."""
    found = {int(added["id"]) for added in state["added_tokens"]}
    found |= {int(token) for token in tokenizer.all_special_ids if token is not None}
    unknown = unknown_id(state)
    found |= set() if unknown is None else {unknown}
    for processor in components(state, "post_processor"):
        for special in processor.get("special_tokens", {}).values():
            found |= {int(token) for token in special["ids"]}
        found |= {int(processor[key][1]) for key in ("sep", "cls") if key in processor}
    return found


def unknown_id(state: dict[str, Any]) -> int | None:
    """The token that stands for what cannot be spelt; ``None`` where there is none."""
    model = state["model"]
    if model["type"] == "Unigram":
        return None if model.get("unk_id") is None else int(model["unk_id"])
    found = model["vocab"].get(model.get("unk_token"))
    return None if found is None else int(found)


def _backend(tokenizer: PreTrainedTokenizerFast) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"tokenizer must be a fast one (tokenizer.json), got {type(tokenizer).__name__}")
    return backend
