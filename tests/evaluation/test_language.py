"""Bits per byte and next-token accuracy, against a slow loop."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fulgurite.evaluation import LanguageResult, evaluate_language, generate

DATA = Path(os.environ.get("FULGURITE_DATA", Path(__file__).parents[3] / "shared" / "data"))


@dataclass
class Text:
    input_ids: Tensor
    num_bytes: Tensor


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,  # the usual 0.02 gives nearly uniform logits, which hide mistakes
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def windows() -> Text:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(64, (7, 13), generator=generator)  # 7: no multiple of any batch size but 1 and 7
    return Text(tokens, torch.randint(20, 60, (7,), generator=generator))


class Table(nn.Module):
    """Logits that depend on the last token only, given as a bare tensor."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.dropout(self.logits[input_ids])


def slow_scores(network: nn.Module, windows: Text) -> tuple[list[float], list[int]]:
    """Bits and correct guesses of each window; each token is predicted by a pass of its own."""
    bits, correct = [], []
    for row in windows.input_ids:
        total, hits = 0.0, 0
        for place in range(1, len(row)):
            with torch.no_grad():
                logits = network(input_ids=row[None, :place]).logits[0, -1].double()
            probability = torch.softmax(logits, 0)
            total -= math.log2(float(probability[row[place]]))
            hits += int(probability.argmax()) == int(row[place])
        bits.append(total)
        correct.append(hits)
    return bits, correct


def test_scores_agree_with_a_slow_loop(network: nn.Module, windows: Text) -> None:
    result = evaluate_language(network, windows, batch_size=3)
    bits, correct = slow_scores(network, windows)
    bits_per_byte, next_token = result.measures
    np.testing.assert_allclose(bits_per_byte.items, bits, rtol=1e-5)  # the network runs in float32
    assert next_token.items.tolist() == correct
    assert bits_per_byte.weights.tolist() == windows.num_bytes.tolist()
    assert bits_per_byte.value == pytest.approx(sum(bits) / int(windows.num_bytes.sum()), rel=1e-5)
    assert next_token.value == sum(correct) / (7 * 12)
    assert result.perplexity == pytest.approx(2 ** (sum(bits) / (7 * 12)), rel=1e-4)
    assert (result.tokens, result.bytes) == (7 * 12, int(windows.num_bytes.sum()))
    assert result.seconds > 0
    assert [(m.name, m.unit, m.higher_is_better) for m in result.measures] == [
        ("bits_per_byte", "bits/byte", False),
        ("next_token", "%", True),
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_batch_size_does_not_matter(network: nn.Module, windows: Text, batch_size: int) -> None:
    expected = evaluate_language(network, windows, batch_size=3)
    result = evaluate_language(network, windows, batch_size=batch_size)
    for got, want in zip(result.measures, expected.measures, strict=True):
        np.testing.assert_allclose(got.items, want.items, rtol=1e-6)


def test_chance_by_hand() -> None:
    text = Text(torch.tensor([[0, 1, 1, 2], [0, 2, 1, 1]]), torch.tensor([4, 6]))
    unigram = torch.tensor([0.25, 0.25, 0.5])
    bits_per_byte, next_token = evaluate_language(Table(torch.zeros(3, 3)), text, unigram=unigram).measures
    assert bits_per_byte.chance_items.tolist() == [2 + 2 + 1, 1 + 2 + 2]
    assert bits_per_byte.chance == 1
    assert next_token.chance_items.tolist() == [1, 1]  # token 2 is the most frequent of the training text


def test_without_training_frequencies_chance_is_the_smoothed_text_itself() -> None:
    text = Text(torch.tensor([[0, 1, 1, 2], [0, 2, 1, 1]]), torch.tensor([4, 6]))
    bits_per_byte, next_token = evaluate_language(Table(torch.zeros(3, 3)), text).measures
    # predicted: 1 four times, 2 twice, 0 never; one more each: 5, 3 and 1 of 9
    expected = [2 * math.log2(9 / 5) + math.log2(9 / 3)] * 2
    assert bits_per_byte.chance_items.tolist() == pytest.approx(expected)
    assert next_token.chance_items.tolist() == [2, 2]


def test_a_network_that_knows_only_frequencies_is_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    unigram = torch.softmax(torch.randn(16, generator=generator, dtype=torch.float64), 0)
    tokens = torch.multinomial(unigram.expand(20, -1), 33, replacement=True, generator=generator)
    text = Text(tokens, torch.full((20,), 64))
    table = Table(unigram.log().float().repeat(16, 1))
    for measure in evaluate_language(table, text, unigram=unigram).measures:
        np.testing.assert_allclose(measure.items, measure.chance_items, rtol=1e-6)


def test_a_certain_network_needs_no_bits() -> None:
    text = Text(torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([4]))
    following = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) * 100.0  # 0 -> 1 -> 2 -> 0
    result = evaluate_language(Table(following), text)
    assert result.measures[0].value == pytest.approx(0, abs=1e-12)
    assert result.measures[1].value == 1
    assert result.perplexity == 1


def test_modes_are_restored_and_no_gradient_is_kept() -> None:
    table = Table(torch.zeros(3, 3)).train()
    table.dropout.eval()  # frozen by its owner: must not come back in training mode
    evaluate_language(table, Text(torch.tensor([[0, 1, 2]]), torch.tensor([2])))
    assert (table.training, table.dropout.training) == (True, False)
    assert table.logits.grad is None
    with pytest.raises(IndexError):  # token 5 has no row in the table
        evaluate_language(table, Text(torch.tensor([[5, 1, 2]]), torch.tensor([2])))
    assert (table.training, table.dropout.training) == (True, False)


def test_dropout_is_off() -> None:
    text = Text(torch.tensor([[0, 1, 2, 0, 1]] * 8), torch.full((8,), 4))
    table = Table(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).train()
    items = evaluate_language(table, text).measures[0].items
    assert len(set(items.tolist())) == 1  # equal windows


def test_limit_takes_evenly_spaced_windows(network: nn.Module, windows: Text) -> None:
    whole = evaluate_language(network, windows, unigram=torch.full((64,), 1 / 64))
    some = evaluate_language(network, windows, unigram=torch.full((64,), 1 / 64), limit=3)
    for part, full in zip(some.measures, whole.measures, strict=True):
        np.testing.assert_allclose(part.items, full.items[[0, 2, 4]], rtol=1e-6)  # 0, 7/3 and 14/3
        assert part.weights.tolist() == full.weights[[0, 2, 4]].tolist()
    assert evaluate_language(network, windows, limit=100).tokens == whole.tokens


def test_progress_counts_windows(network: nn.Module, windows: Text) -> None:
    seen: list[tuple[int, int]] = []
    evaluate_language(network, windows, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_a_diverged_network_gives_nan_items() -> None:
    table = Table(torch.tensor([[0.0, 0, 0], [math.nan, 0, 0], [0, 0, 0]]))
    text = Text(torch.tensor([[0, 1, 2], [0, 2, 2]]), torch.tensor([2, 2]))
    result = evaluate_language(table, text)
    assert np.isnan(result.measures[0].items).tolist() == [True, False]  # the second never reads token 1
    assert math.isnan(result.perplexity)


def test_a_hopeless_network_has_an_infinite_perplexity() -> None:
    wrong = torch.tensor([[1e4, 0.0], [1e4, 0]])
    result = evaluate_language(Table(wrong), Text(torch.tensor([[0, 1, 1]]), torch.tensor([2])))
    assert result.perplexity == math.inf  # 14,427 bits a token


def test_arrays_of_numpy_are_read_too(network: nn.Module, windows: Text) -> None:
    arrays = Text(windows.input_ids.numpy().astype(np.int32), windows.num_bytes.numpy())  # type: ignore[arg-type]
    got, want = evaluate_language(network, arrays), evaluate_language(network, windows)
    assert got.measures[0].items.tolist() == want.measures[0].items.tolist()


@pytest.mark.parametrize(
    ("tokens", "num_bytes", "settings", "message"),
    [
        ([[0]], [1], {}, r"input_ids must be \[n, T \+ 1\]"),
        ([[0, 1]], [1, 1], {}, r"num_bytes must be \[1\]"),
        ([[0, 1]], [1], {"limit": 0}, "limit must be at least 1, got 0"),
        ([[0, 1]], [1], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([[0, 1]], [1], {"unigram": torch.ones(3)}, "unigram must be .* sum 3.0"),
        ([[0, 1]], [1], {"unigram": torch.tensor([0.0, 1.0])}, "unigram must be .* least 0.0"),
        ([[0, 2]], [1], {"unigram": torch.tensor([0.5, 0.5])}, "2 entries and token 2"),
    ],
)
def test_arguments_are_checked(tokens: list, num_bytes: list, settings: dict, message: str) -> None:
    text = Text(torch.tensor(tokens), torch.tensor(num_bytes))
    with pytest.raises(ValueError, match=message):
        evaluate_language(Table(torch.zeros(3, 3)), text, **settings)


def test_logits_of_another_length_are_refused() -> None:
    class Pooled(Table):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids)[:, -1:]

    text = Text(torch.tensor([[0, 1, 2]]), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"logits must be \[1, 2, 'V'\].* got \[1, 1, 3\]"):
        evaluate_language(Pooled(torch.zeros(3, 3)), text)


@pytest.fixture(scope="module")
def stories() -> tuple[nn.Module, object]:
    transformers = pytest.importorskip("transformers")
    folder = DATA / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"trained network not found at {folder}; set FULGURITE_DATA to the data folder")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return network, transformers.AutoTokenizer.from_pretrained(folder)


def stories_result(stories: tuple) -> tuple[LanguageResult, Text]:
    network, tokenizer = stories
    text = (DATA / "text" / "tinystories" / "valid_sample.txt").read_text()[:20_000]
    ids = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = torch.tensor(ids["input_ids"])
    ends = torch.tensor([len(text[:end].encode()) for _, end in ids["offset_mapping"]])
    count = (len(tokens) - 1) // 128
    starts = torch.arange(count) * 128
    rows = tokens[starts[:, None] + torch.arange(129)]
    return evaluate_language(network, Text(rows, ends[starts + 128] - ends[starts])), Text(rows, ends)


def test_a_trained_network_scores_as_its_library_says(stories: tuple) -> None:
    result, text = stories_result(stories)
    with torch.no_grad():
        # transformers shifts the labels itself and gives the mean loss in nats
        loss = float(stories[0](input_ids=text.input_ids, labels=text.input_ids).loss)
    assert math.log(result.perplexity) == pytest.approx(loss, rel=1e-5)
    assert loss < 1.8  # 1.53 is stated for windows of 256 tokens; shorter windows know less
    bits_per_byte, next_token = result.measures
    assert bits_per_byte.value < 0.5 * bits_per_byte.chance  # 1.1 against 3.4
    assert next_token.value > 0.5 > 10 * next_token.chance


def test_greedy_text_is_the_same_with_and_without_the_librarys_generate(stories: tuple) -> None:
    network, tokenizer = stories

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.inner(input_ids=input_ids).logits

    network.train()
    text = generate(network, tokenizer, "Once upon a time", max_new_tokens=24)
    assert network.training
    network.eval()
    assert text == generate(Bare(), tokenizer, "Once upon a time", max_new_tokens=24)
    assert text.startswith(
        "Once upon a time, there was a little girl named"
    )  # how its training stories begin
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        generate(network, tokenizer, "Once", max_new_tokens=0)


def test_an_empty_prompt_begins_with_the_first_token_of_a_text(stories: tuple) -> None:
    assert generate(*stories, "", max_new_tokens=16).startswith("Once upon a time")
