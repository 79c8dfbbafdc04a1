"""Rows of tokens are those that the adapter makes, also where each text is tokenised but once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datamodules.images.tokens import TokenRows

TEXTS = ["one", "one two three", "", "four five", "one " * 30]
ADAPTERS: list[dict[str, Any]] = [{}, {"width": 9}, {"pad": 2}, {"width": 9, "pad": 2}]


@pytest.mark.parametrize(
    "settings", ADAPTERS, ids=["free", "fixed", "free, padded with the end", "fixed with the end"]
)
def test_rows_are_those_of_the_adapter(settings: dict[str, Any], adapter: Callable[..., Any]) -> None:
    rows = TokenRows(adapter(**settings))
    rows.learn([TEXTS[1], TEXTS[4]])
    for some in (TEXTS, TEXTS[:1], TEXTS[::-1], TEXTS[2:4]):
        assert torch.equal(rows(some), adapter(**settings).tokenize(some))


def test_lengths_count_the_special_tokens(adapter: Callable[..., Any]) -> None:
    assert TokenRows(adapter()).lengths(TEXTS).tolist() == [3, 5, 2, 4, 16]  # 16 is the adapter's limit


def test_a_text_is_tokenised_once(adapter: Callable[..., Any]) -> None:
    made = adapter()
    asked: list[str] = []
    tokenize = made.tokenize
    made.tokenize = lambda texts: asked.extend(texts) or tokenize(texts)  # counts, and calls the real one
    rows = TokenRows(made)
    asked.clear()  # of the text that tells whether rows have one width
    for _ in range(3):
        rows(["one", "two", "one"])
    assert asked == ["one", "two"]
