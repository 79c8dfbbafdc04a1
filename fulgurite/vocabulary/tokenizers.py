"""A tokenizer with some of its tokens only, numbered anew.

    tokenizer, ids to keep -> backend's JSON -> vocabulary, merges, added tokens, post-processor -> tokenizer, old ids

A text that the old tokenizer cut into kept tokens is cut into the same ones; in any other, the tokens that are
gone are spelt with those that are left, which decode to the same text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fulgurite.vocabulary._backend import all_tokens, read_state, special_ids
from fulgurite.vocabulary.bpe import read_merges
from fulgurite.vocabulary.kinds import read_pieces
from fulgurite.vocabulary.pieces import Pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "pad_token_type_id",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "chat_template",
)


def shrink_tokenizer(
    tokenizer: PreTrainedTokenizerFast, kept: Tensor
) -> tuple[PreTrainedTokenizerFast, Tensor]:
    """Make a tokenizer of the kept tokens; the given one stays as it is.

    The result is of the plain class, whose saved file says all there is to it: classes of one network rebuild
    parts of their tokenizer when they are loaded. What such a class adds in Python (NLLB's choice of language,
    LayoutLM's boxes) is not carried over.

    Args:
        tokenizer: BPE, WordPiece or Unigram.
        kept: Ids to keep, integers ``[n]`` in any order; see ``select_tokens``.

    Returns:
        The tokenizer, whose ids are ``0 .. n - 1`` in the order of the old ones, and the old id of each,
        ``int64 [n]``, ascending.

    Raises:
        ValueError: If an id is no token's or comes twice, or one is missing that texts cannot do without: a
            special or added token, a byte, or a part of a kept token; if the added tokens' ids are among the model's.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokens = all_tokens(tokenizer)
    state = read_state(tokenizer)
    old_ids = _checked(kept, tokens)
    _check_complete(tokens, read_pieces(state), special_ids(tokenizer, state), old_ids)
    new_ids = {old: new for new, old in enumerate(old_ids)}
    state["model"] = _shrunk_model(state["model"], new_ids)
    state["added_tokens"] = [
        {**added, "id": new_ids[added["id"]]}
        for added in sorted(state["added_tokens"], key=lambda a: a["id"])
    ]
    state["post_processor"] = _renumbered(state["post_processor"], new_ids)
    if state.get("padding"):
        # its token is by default the one with id 0, whether the tokenizer has a padding token or not
        state["padding"]["pad_id"] = new_ids.get(state["padding"]["pad_id"], 0)
    _keep_word_ends(state, tokenizer)
    settings = {name: getattr(tokenizer, name, None) for name in _SETTINGS}
    plain: Any = PreTrainedTokenizerFast  # without annotations
    shrunk: PreTrainedTokenizerFast = plain(
        tokenizer_object=Tokenizer.from_str(json.dumps(state, ensure_ascii=False)),
        **{name: value for name, value in settings.items() if value is not None},
        **tokenizer._special_tokens_map,  # unlike special_tokens_map, with the spaces that a token takes along
        extra_special_tokens=list(tokenizer.extra_special_tokens),
    )
    found = all_tokens(shrunk)
    wrong = [old for new, old in enumerate(old_ids) if found.get(new) != tokens[old]]
    if wrong or len(found) != len(old_ids):
        raise ValueError(
            "added tokens must have ids after all of the model's, got some among them: "
            f"{', '.join(f'{tokens[old]!r} ({old})' for old in wrong[:5])}"
        )
    return shrunk, torch.tensor(old_ids, dtype=torch.int64)


def _checked(kept: Tensor, tokens: dict[int, str]) -> list[int]:
    if kept.dim() != 1 or kept.is_floating_point() or kept.dtype == torch.bool:
        raise ValueError(f"kept must be integers [n], got {kept.dtype} {list(kept.shape)}")
    old_ids: list[int] = sorted(kept.tolist())
    foreign = [token for token in old_ids if token not in tokens]
    if foreign:
        raise ValueError(f"kept must be ids of the tokenizer's {len(tokens)} tokens, got {foreign[0]}")
    if len(set(old_ids)) < len(old_ids):
        raise ValueError(f"kept must have each id once, got {len(old_ids) - len(set(old_ids))} of them again")
    return old_ids


def _check_complete(tokens: dict[int, str], pieces: Pieces, special: set[int], old_ids: list[int]) -> None:
    there = set(old_ids)
    wanted = {"special or added token": special}
    if not pieces.limited:
        wanted["byte of the fallback"] = set(pieces.fallback)
    wanted["part of a kept token"] = {part for token in old_ids for part in pieces.needs(token)}
    for what, needed in wanted.items():
        missing = sorted(needed - there)
        if missing:
            shown = ", ".join(repr(tokens[token]) for token in missing[:5])
            raise ValueError(f"kept must hold every {what}, {len(missing)} are missing: {shown}")


def _shrunk_model(model: dict[str, Any], new_ids: dict[int, int]) -> dict[str, Any]:
    if model["type"] == "Unigram":
        listed = [entry for old, entry in enumerate(model["vocab"]) if old in new_ids]
        unknown = model.get("unk_id")
        return {**model, "vocab": listed, "unk_id": None if unknown is None else new_ids[unknown]}
    vocabulary = {piece: new_ids[old] for piece, old in model["vocab"].items() if old in new_ids}
    if model["type"] == "WordPiece":
        return {**model, "vocab": vocabulary}
    prefix = len(model.get("continuing_subword_prefix") or "")
    merges = [
        [left, right]
        for left, right in read_merges(model)
        if left in vocabulary and right in vocabulary and left + right[prefix:] in vocabulary
    ]
    return {**model, "vocab": vocabulary, "merges": merges}


def _renumbered(processor: Any, new_ids: dict[int, int]) -> Any:
    """A post-processor with the new ids of the tokens that it puts around a text."""
    if processor is None:
        return None
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [_renumbered(part, new_ids) for part in processor["processors"]]
    elif processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: {**special, "ids": [new_ids[token] for token in special["ids"]]}
            for name, special in processor["special_tokens"].items()
        }
    for key in ("sep", "cls"):  # of BertProcessing and RobertaProcessing: text and id
        if key in processor:
            changed[key] = [processor[key][0], new_ids[processor[key][1]]]
    return changed


def _keep_word_ends(state: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """Write CLIP's replacement of word ends into the decoder: its class makes it in Python."""
    suffix = state["model"].get("end_of_word_suffix")
    ending = (
        next((i for p, i in state["model"]["vocab"].items() if p.endswith(suffix)), None) if suffix else None
    )
    if ending is None or suffix in tokenizer.decode([ending, ending]):
        return  # what is not replaced now stays so
    if (state["decoder"] or {}).get("type") == "ByteLevel":
        replace = {"type": "Replace", "pattern": {"String": suffix}, "content": " "}
        strip = {"type": "Replace", "pattern": {"Regex": r"\A\s+|\s+\z"}, "content": ""}
        state["decoder"] = {"type": "Sequence", "decoders": [state["decoder"], replace, strip]}
