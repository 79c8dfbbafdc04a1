"""Bits per byte and words guessed over spans of text: the same bytes for every tokenizer."""

import lzma
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.token_cache import tokenise
from datamodules.tokenizer_training import train_tokenizer
from datamodules.windows import WindowDataset
from fulgurite.evaluation import cut_spans, evaluate_language, evaluate_spans
from fulgurite.models import load_causal_lm, load_tokenizer

TEXT = "The sea was calm, and naïve   fishermen\n\nwent out: “Où est le thé?” — 100 of them sailed away. " * 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Table(nn.Module):
    """Logits that depend on the last token only."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits[input_ids]


def uniform(size: int) -> Table:
    return Table(torch.zeros(size, size))


def bpe(vocabulary: Sequence[str], merges: Sequence[tuple[str, str]] = (), lower: bool = False) -> Any:
    """A BPE tokenizer that does not cut at white space first."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=list(merges)))
    tokenizer.decoder = decoders.Fuse()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


def tokens_after_first_word(tokenizer: Any, span: str) -> int:
    first = span.split()[0]
    return len(tokenizer(span)["input_ids"]) - len(tokenizer(first)["input_ids"])


def guesses(tokenizer: Any, pairs: Sequence[tuple[int, int]]) -> Table:
    """A network that is sure what follows some tokens, and says token 0 after all others."""
    logits = torch.zeros(len(tokenizer), len(tokenizer))
    logits[:, 0] = 1
    for before, after in pairs:
        logits[before, after] = 9
    return Table(logits)


def test_spans_are_whole_words_in_order() -> None:
    spans = cut_spans(TEXT, 60)
    assert max(len(span.encode()) for span in spans) <= 60
    assert min(len(span.encode()) for span in spans) > 60 - 12  # no word with its white space has more bytes
    words = [word for span in spans for word in span.split()]
    assert words == TEXT.split()[: len(words)]
    assert len(TEXT) - sum(map(len, spans)) < 60 + 2 * len(spans)  # the rest and the white space between


def test_text_without_white_space_is_cut_too() -> None:
    spans = cut_spans("漢字" * 400, 600)
    assert {len(span) for span in spans} == {192}  # three times 64 characters of 3 bytes are 576 bytes
    assert spans[0] == "漢字" * 96


def test_a_span_has_two_words_at_least() -> None:
    assert cut_spans("extraordinarily incomprehensible words here now", 4) == (
        "extraordinarily incomprehensible",
        "words here",
    )


@pytest.mark.parametrize(("text", "size"), [("a few words", 100), ("", 100), ("a few words", 0)])
def test_a_text_without_a_span_is_refused(text: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes, got {len(text)}|num_bytes must be .* got 0"):
        cut_spans(text, size)


@pytest.fixture(scope="module")
def tokenizers() -> list[Any]:
    """One of bytes alone, and one with words of its own."""
    return [train_tokenizer(TEXT, 257), train_tokenizer(TEXT, 320)]


def test_bytes_are_the_same_for_every_tokenizer_and_uniform_bits_are_exact(tokenizers: list[Any]) -> None:
    spans = cut_spans(TEXT, 100)
    expected = [len(span.encode()) - len(span.split()[0].encode()) for span in spans]
    counts = []
    for tokenizer in tokenizers:
        result = evaluate_spans(uniform(len(tokenizer)), tokenizer, spans)
        tokens = [tokens_after_first_word(tokenizer, span) for span in spans]
        bits_per_byte, next_word = result.measures
        assert bits_per_byte.weights.tolist() == expected
        assert next_word.weights.tolist() == [len(span.split()) - 1 for span in spans]
        # float32 holds log2 V to 7 digits
        np.testing.assert_allclose(
            bits_per_byte.items, np.array(tokens) * math.log2(len(tokenizer)), rtol=1e-6
        )
        assert bits_per_byte.value == pytest.approx(
            sum(tokens) * math.log2(len(tokenizer)) / sum(expected), rel=1e-6
        )
        assert (result.tokens, result.bytes, result.lossy) == (sum(tokens), sum(expected), 0)
        counts.append(sum(tokens))
    assert counts[0] == sum(expected) > 2 * counts[1]  # a byte a token, and tokens of more than two bytes


def test_spans_longer_than_the_network_lose_nothing(tokenizers: list[Any]) -> None:
    spans, tokenizer = cut_spans(TEXT, 100), tokenizers[0]
    table = Table(torch.randn(257, 257, generator=torch.Generator().manual_seed(0)))
    whole, cut = (evaluate_spans(table, tokenizer, spans, max_tokens=size).measures for size in (None, 16))
    np.testing.assert_allclose(cut[0].items, whole[0].items, rtol=1e-6)  # the table needs no context
    assert cut[0].weights.tolist() == whole[0].weights.tolist()


def test_a_token_over_the_first_words_end_is_counted_whole() -> None:
    tokenizer = bpe(["a", "b", " ", " b", "a b"], [(" ", "b"), ("a", " b")])
    result = evaluate_spans(uniform(5), tokenizer, ["a b"])
    assert tokenizer("a b")["input_ids"] == [4]
    assert result.tokens == 1
    assert result.measures[0].items.tolist() == pytest.approx([math.log2(5)])  # nothing before it
    assert result.measures[0].weights.tolist() == [2]  # " b"


def test_chance_by_hand_and_from_outside() -> None:
    tokenizer = bpe(["a", "b", " "])
    spans = ["a b b", "b aa"]
    unigram = torch.tensor([0.25, 0.25, 0.5])
    bits_per_byte, next_word = evaluate_spans(uniform(3), tokenizer, spans, unigram=unigram).measures
    assert bits_per_byte.chance_items.tolist() == [1 + 2 + 1 + 2, 1 + 2 + 2]
    assert next_word.chance_items.tolist() == [2, 0]  # "b" is the most frequent word after the first ones
    own = evaluate_spans(uniform(3), tokenizer, spans).measures[0]
    # scored: "a" twice, "b" twice, " " three times; one more each: 3, 3 and 4 of 10
    assert own.chance_items.tolist() == pytest.approx(
        [2 * math.log2(10 / 4) + 2 * math.log2(10 / 3), math.log2(10 / 4) + 2 * math.log2(10 / 3)]
    )
    other = evaluate_spans(
        uniform(257), train_tokenizer(TEXT, 257), spans, chance=bits_per_byte.chance_items
    ).measures[0]
    assert other.chance == bits_per_byte.chance == 11 / 7


def test_a_word_is_guessed_where_all_its_tokens_are() -> None:
    tokenizer = bpe(["x", "a", "b", "c", " "])
    x, a, b, c, space = range(5)
    network = guesses(tokenizer, [(x, space), (space, a), (a, b), (b, space), (c, space)])
    next_word = evaluate_spans(network, tokenizer, ["x ab ab ac ab", "ab ab"]).measures[1]
    assert next_word.items.tolist() == [3, 1]  # "ac" is missed
    assert next_word.weights.tolist() == [4, 1]
    without_space = guesses(tokenizer, [(x, space), (space, a), (a, b), (c, space)])
    missed = evaluate_spans(without_space, tokenizer, ["x ab ab ac ab"]).measures[1]
    assert missed.items.tolist() == [
        2
    ]  # the space after "ab" is the next word's, and "ac" is missed either way


def test_a_token_of_two_words_decides_both() -> None:
    tokenizer = bpe(["x", "a", " ", "a ", "a a"], [("a", " "), ("a ", "a")])
    right, wrong = guesses(tokenizer, [(0, 2), (2, 4), (4, 2)]), guesses(tokenizer, [(0, 2), (4, 2)])
    assert tokenizer("x a a")["input_ids"] == [0, 2, 4]
    assert evaluate_spans(right, tokenizer, ["x a a"]).measures[1].items.tolist() == [2]
    assert evaluate_spans(wrong, tokenizer, ["x a a"]).measures[1].items.tolist() == [0]


def test_a_character_of_several_tokens_is_guessed_whole(tokenizers: list[Any]) -> None:
    tokenizer = tokenizers[0]
    x, space, lead, trail = tokenizer("x é")["input_ids"]
    right = guesses(tokenizer, [(x, space), (space, lead), (lead, trail), (trail, space)])
    wrong = guesses(tokenizer, [(x, space), (space, lead), (trail, space)])
    assert evaluate_spans(right, tokenizer, ["x é é"]).measures[1].items.tolist() == [2]
    assert evaluate_spans(wrong, tokenizer, ["x é é"]).measures[1].items.tolist() == [0]


def test_spans_that_tokens_do_not_give_back_are_told() -> None:
    tokenizer = bpe(["a", "b", " "], lower=True)
    assert evaluate_spans(uniform(3), tokenizer, ["a b", "a B", "b ab"]).lossy == 1


def test_limit_and_progress(tokenizers: list[Any]) -> None:
    spans, tokenizer = cut_spans(TEXT, 100), tokenizers[1]
    unigram = torch.full((len(tokenizer),), 1 / len(tokenizer))
    network = uniform(len(tokenizer))
    whole = evaluate_spans(network, tokenizer, spans, unigram=unigram).measures[0]
    seen: list[tuple[int, int]] = []
    some = evaluate_spans(
        network,
        tokenizer,
        spans,
        unigram=unigram,
        limit=3,
        batch_size=2,
        progress=lambda *counts: seen.append(counts),
    ).measures[0]
    kept = [index * len(spans) // 3 for index in range(3)]
    assert some.items.tolist() == whole.items[kept].tolist()
    assert some.chance_items.tolist() == whole.chance_items[kept].tolist()
    assert seen == [(2, 3), (3, 3)]


def test_a_diverged_network_gives_nan_items(tokenizers: list[Any]) -> None:
    table = torch.zeros(257, 257)
    table[tokenizers[0]("q")["input_ids"]] = math.nan
    items = evaluate_spans(Table(table), tokenizers[0], ["a b q b", "a b c"]).measures[0].items
    assert np.isnan(items).tolist() == [True, False]


@pytest.mark.parametrize(
    ("spans", "settings", "message"),
    [
        ([], {}, "spans must have at least one span, got none"),
        (["a b", " b "], {}, "a span must have two words or more, got ' b ' at 1"),
        (["a b"], {"limit": 0}, "limit must be at least 1, got 0"),
        (["a b"], {"chance": np.zeros(2)}, r"chance must be \[1\], one item a span, got \[2\]"),
        (["a b"], {"unigram": torch.ones(3)}, "unigram must be .* sum 3.0"),
        (["a\tq"], {}, "gives the words after the first of 'a.*q' no token"),
    ],
)
def test_arguments_are_checked(spans: list[str], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_spans(uniform(3), bpe(["a", "b", " "]), spans, **settings)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[0] for _ in texts]}

    slow: Any = Slow()
    with pytest.raises(ValueError, match="tokenizer must be a fast one.* got Slow"):
        evaluate_spans(uniform(3), slow, ["a b"])


@pytest.mark.parametrize(
    ("name", "file"),
    [("books6m", "gutenberg/valid.txt.xz"), ("stories260K", "tinystories/valid_sample.txt")],
)
def test_spans_of_a_real_text_need_as_many_bits_as_its_windows(
    name: str, file: str, shared_data: Path
) -> None:
    with (lzma.open if file.endswith(".xz") else open)(shared_data / "text" / file, "rt") as stream:
        text = str(stream.read(20_000))
    folder = shared_data / "models" / name
    network, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    windows = WindowDataset(tokenise(text, tokenizer), 256).windows()
    spans = cut_spans(text, int(windows.num_bytes.double().mean()))
    of_windows = evaluate_language(network, windows).measures[0]
    result = evaluate_spans(network, tokenizer, spans)
    # the same text: only the first word of each span and the place of the cuts differ
    assert result.measures[0].value == pytest.approx(of_windows.value, rel=0.02)
    assert result.measures[0].chance == pytest.approx(of_windows.chance, rel=0.02)
    assert abs(len(spans) - len(windows)) <= 2
    assert result.lossy == 0
    assert result.measures[1].value > 2 * result.measures[1].chance
