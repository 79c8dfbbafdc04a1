"""Tokenizers learned from captions: CLIP's manner says any text, BLIP's knows where it cannot."""

from pathlib import Path

import pytest

from fulgurite.models import load_tokenizer, train_caption_tokenizer

TEXTS = ["a red square", "Two small DOGS, and a cat's hat", "grüner Käse"] * 4


@pytest.mark.parametrize("vocab_size", [259, 300, 512])  # 259: 256 bytes and three special tokens
def test_any_text_is_said_in_bytes(vocab_size: int) -> None:
    tokenizer = train_caption_tokenizer(TEXTS, vocab_size, "clip")
    assert len(tokenizer) <= vocab_size
    for text in ("a red square", "zebra 日本 🐶 \t x", "cat's", ""):
        tokens = tokenizer(text).input_ids
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text.lower()


def test_the_end_of_a_text_has_the_highest_token() -> None:
    tokenizer = train_caption_tokenizer(TEXTS, 300, "clip")
    tokens = tokenizer("a red square").input_ids
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[-1] == tokenizer.eos_token_id == max(tokens) == len(tokenizer) - 1


def test_a_cut_text_keeps_its_end() -> None:
    tokenizer = train_caption_tokenizer(TEXTS, 300, "clip")
    assert (
        tokenizer("a red square " * 9, truncation=True, max_length=6).input_ids[-1] == tokenizer.eos_token_id
    )


def test_frequent_words_become_one_token() -> None:
    assert len(train_caption_tokenizer(TEXTS, 512, "clip")("a red square").input_ids) == 2 + 3
    assert len(train_caption_tokenizer(TEXTS, 200, "bert")("a red square").input_ids) == 2 + 3


def test_blips_manner_has_blips_special_tokens() -> None:
    tokenizer = train_caption_tokenizer(TEXTS, 200, "bert")
    tokens = tokenizer("A red 日 dog").input_ids
    assert tokens[0] == tokenizer.cls_token_id
    assert tokens[-1] == tokenizer.sep_token_id
    assert tokens.count(tokenizer.unk_token_id) == 1
    assert tokenizer.convert_tokens_to_ids("[DEC]") == tokenizer.bos_token_id != tokenizer.cls_token_id
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "a red dog"


def test_many_letters_leave_room_for_the_special_tokens() -> None:
    texts = ["".join(chr(0x4E00 + index) for index in range(500))]  # 500 letters, each once
    assert len(train_caption_tokenizer(texts, 64, "bert")) <= 64


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_the_same_texts_give_the_same_tokenizer(kind: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_caption_tokenizer(TEXTS, 300, kind).save_pretrained(str(tmp_path / name))
    one, two = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert one == two
    loaded = load_tokenizer(tmp_path / "one")
    assert (
        loaded("a red square").input_ids
        == train_caption_tokenizer(TEXTS, 300, kind)("a red square").input_ids
    )


@pytest.mark.parametrize(
    ("texts", "vocab_size", "kind", "message"),
    [
        ([], 300, "clip", "got none"),
        (TEXTS, 258, "clip", r"at least 259 \(bytes and special tokens\), got 258"),
        (TEXTS, 4, "bert", "at least 12, got 4"),
        (TEXTS, 300, "gpt", "kind must be clip or bert, got 'gpt'"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    texts: list[str], vocab_size: int, kind: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_caption_tokenizer(texts, vocab_size, kind)
