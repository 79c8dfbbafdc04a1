"""Counts are of all tokens of all texts, however the tokenizer is set."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from fulgurite.vocabulary import counts as module
from fulgurite.vocabulary import token_counts


def test_counts_are_those_of_the_tokens_without_special_ones(
    tokenizer: PreTrainedTokenizerFast, lines: list[str]
) -> None:
    expected: Counter[int] = Counter()
    for line in lines:
        expected.update(tokenizer(line, add_special_tokens=False)["input_ids"])
    counts = token_counts(tokenizer, iter(lines))
    assert counts.dtype == torch.int64
    assert counts.shape == (len(tokenizer),)
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == expected


def test_texts_are_neither_cut_nor_padded(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer = tokenizer_of("wordpiece")
    expected = token_counts(tokenizer, ["a", "word " * 50])
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    assert torch.equal(token_counts(tokenizer, ["a", "word " * 50]), expected)
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 8  # left as it was
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def test_batches_do_not_change_the_counts(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of("byte-level")
    expected = token_counts(tokenizer, lines)
    monkeypatch.setattr(module, "_BATCH_TEXTS", 7)  # no divisor of the 400 lines
    assert torch.equal(token_counts(tokenizer, lines), expected)
    assert token_counts(tokenizer, []).sum() == 0


def test_ids_with_gaps_have_a_place_each() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 5}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert token_counts(tokenizer, ["a"]).tolist() == [0, 0, 0, 0, 0, 1]


def test_a_tokenizer_without_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer must be a fast one .*, got object"):
        token_counts(object(), [])  # type: ignore[arg-type]
