"""Choices of a sentence's last word: how they are made, and how networks answer them."""

import math
import random
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.tokenizer_training import train_tokenizer
from fulgurite.evaluation import LastWordQuestion, evaluate_last_word, last_word_choices
from fulgurite.models import load_causal_lm, load_tokenizer

QUESTION = LastWordQuestion("a b a", ("bb", "cc", "ca", "ab"), 1)


class Table(nn.Module):
    """Logits that depend on the last token only."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits[input_ids]


def bpe(vocabulary: Sequence[str], merges: Sequence[tuple[str, str]] = ()) -> Any:
    """A BPE tokenizer that does not cut at white space first."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=list(merges)))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def text() -> str:
    """600 sentences of made-up words, some frequent and most rare, in paragraphs of five."""
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 8))) for _ in range(2000)]
    weights = [1 / rank for rank in range(20, 2020)]  # the first is a hundred times as frequent as the last
    sentences = [
        " ".join(draw.choices(words, weights, k=draw.randint(4, 20))).capitalize() + draw.choice(".!?")
        for _ in range(600)
    ]
    return "\n\n".join("\n".join(sentences[start : start + 5]) for start in range(0, 600, 5))


def test_questions_are_sentences_of_the_text(text: str) -> None:
    flat = " ".join(text.split())
    questions = last_word_choices(text, count=100)
    assert len(questions) == 100
    for question in questions:
        word = question.words[question.answer]
        assert any(f"{question.context} {word}{mark}" in flat for mark in ".!?")
        assert 5 <= len(question.context.split()) <= 60
        assert question.context[0].isupper()


def test_the_other_words_are_like_the_true_one(text: str) -> None:
    counts = Counter(text.replace(".", " ").replace("!", " ").replace("?", " ").split())
    for question in last_word_choices(text, count=100):
        word = question.words[question.answer]
        assert len(set(question.words)) == 4
        for other in {*question.words} - {word}:
            assert counts[other] > 0
            assert abs(len(other) - len(word)) <= 1
            assert not other.startswith(word)
            assert not word.startswith(other)


def test_who_counts_words_knows_no_more_than_chance(text: str) -> None:
    counts = Counter(text.replace(".", " ").replace("!", " ").replace("?", " ").split())
    questions = last_word_choices(text, count=400)
    for sign in (1, -1):
        right = [
            max(question.words, key=lambda word: sign * counts[word]) == question.words[question.answer]
            for question in questions
        ]
        # four standard errors of 400 answers; with other words drawn at random 0.59 would be right
        assert np.mean(right) < 0.25 + 4 * math.sqrt(0.25 * 0.75 / 400)


def test_answers_stand_anywhere(text: str) -> None:
    places = Counter(question.answer for question in last_word_choices(text, count=400))
    assert sorted(places) == [0, 1, 2, 3]
    assert min(places.values()) > 100 - 4 * math.sqrt(400 * 0.25 * 0.75)  # four standard errors


def test_the_seed_decides(text: str) -> None:
    first, again, other = (last_word_choices(text, count=50, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [question.context for question in first] == [question.context for question in other]
    assert first != other


def test_questions_are_spaced_over_all_texts(text: str) -> None:
    halves = [text[: len(text) // 2], text[len(text) // 2 :]]
    contexts = [question.context for question in last_word_choices(halves, count=20)]
    flat = " ".join(halves[0].split())
    assert 8 <= sum(context in flat for context in contexts) <= 12  # half of them, give or take the cut


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ('She took the long road home "before dinner."', "dinner"),
        ("She took the long\nroad home before dinner!", "dinner"),
        ("She took the long road home before ten.", None),  # three letters
        ("She took the long road home to London.", None),  # a capital
        ("She took the long road to the sea-shore.", None),  # two words or one?
        ("She took the long road home before dinner", None),  # not ended
        ("She came before dinner.", None),  # three words before it
        ("She took the long road\n\nhome before dinner.", None),  # two words of a paragraph
    ],
)
def test_which_sentences_make_a_question(text: str, sentence: str, word: str | None) -> None:
    questions = last_word_choices(f"{text}\n\n{sentence}\n\n{text}", count=10_000)
    found = [question for question in questions if "long road home" in question.context]
    assert [question.words[question.answer] for question in found] == ([word] if word else [])


def test_contractions_are_no_words(text: str) -> None:
    rare = " ".join(f"q{letter}ouldn't" for letter in string.ascii_lowercase)
    questions = last_word_choices(f"{text}\n\n{rare}\n\n{text}", count=600)
    assert not [word for question in questions for word in question.words if word.endswith("ouldn")]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("One two three ten six seven. Eight.", {}, "3 others of its length, got 1 sentences and 2 diff"),
        ("", {}, "got 0 sentences and 0 different"),
        ("One.", {"count": 0}, "count must be at least 1, got 0"),
        ("One.", {"candidates": 1}, "candidates must be at least 2, got 1"),
    ],
)
def test_a_text_without_questions_is_refused(text: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        last_word_choices(text, **settings)


@pytest.mark.parametrize(
    ("words", "answer", "message"),
    [
        (("a",), 0, "two or more"),
        (("a", "a"), 0, "all different"),
        (("a", "b"), 2, r"answer must be in \[0, 2\)"),
    ],
)
def test_a_question_is_a_choice(words: tuple[str, ...], answer: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LastWordQuestion("a", words, answer)


def test_the_most_probable_word_is_chosen() -> None:
    tokenizer = bpe(["a", "b", "c", " "])
    b, c, space = 1, 2, 3
    probability = torch.full((4, 4), 0.25)
    probability[space] = torch.tensor([0.1, 0.5, 0.3, 0.1])
    probability[c] = torch.tensor([0.05, 0.05, 0.85, 0.05])
    probability[b] = torch.tensor([0.4, 0.2, 0.2, 0.2])
    # " bb": .25 * .5 * .2 = .025, " cc": .25 * .3 * .85 = .064, " ca": .25 * .3 * .05, " ab": .25 * .1 * .25
    result = evaluate_last_word(Table(probability.log()), tokenizer, [QUESTION])
    last_word, greedy = result.measures
    assert (last_word.name, last_word.items.tolist(), last_word.chance) == ("last_word", [1], 0.25)
    assert greedy.items.tolist() == [0]  # "b" is the most probable after a space
    wrong = evaluate_last_word(
        Table(probability.log()), tokenizer, [LastWordQuestion("a b a", ("bb", "cc"), 0)]
    ).measures[0]
    assert (wrong.items.tolist(), wrong.chance) == ([0], 0.5)


def test_greedy_is_right_where_each_token_is() -> None:
    tokenizer = bpe(["a", "b", "c", " "])
    following = torch.tensor(
        [[0.0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    )  # a -> space -> c -> c
    questions = [QUESTION, LastWordQuestion("a b a", ("bb", "cc", "ca", "ab"), 2)]
    greedy = evaluate_last_word(Table(following), tokenizer, questions).measures[1]
    assert greedy.items.tolist() == [1, 0]
    assert greedy.chance_items.tolist() == [1, 0]  # "cc" comes first among equally frequent answers


def test_words_can_be_judged_by_their_bytes_too() -> None:
    tokenizer = bpe(["a", "b", " "])
    questions = [LastWordQuestion("a", ("abab", "b"), 0)]
    # a uniform network pays for each token: the short word costs less, but not for its length
    result = evaluate_last_word(Table(torch.zeros(3, 3)), tokenizer, questions)
    assert result.measures[0].items.tolist() == [0]
    assert result.per_byte == 1  # 5 tokens for 4 bytes, against 2 for 1


def test_a_network_that_says_nothing_is_at_chance() -> None:
    tokenizer = bpe(["a", "b", "c", " "])
    measure = evaluate_last_word(Table(torch.zeros(4, 4)), tokenizer, [QUESTION] * 3).measures[0]
    assert measure.value == measure.chance == 0.25  # four words of two letters, all equally probable


def test_scores_are_the_log_probability_of_the_words(text: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer(text, 300)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)
    network = transformers.LlamaForCausalLM(config).eval()
    questions = last_word_choices(text, count=12)
    expected = []
    for question in questions:
        context = tokenizer(question.context)["input_ids"]
        totals = []
        for word in question.words:
            tokens = context + tokenizer(f" {word}")["input_ids"]  # it cuts before a space
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([tokens])).logits[0].double().log_softmax(-1)
            totals.append(sum(float(logits[at - 1, tokens[at]]) for at in range(len(context), len(tokens))))
        expected.append(float(int(np.argmax(totals)) == question.answer))
    for batch_size in (1, 5, 100):
        result = evaluate_last_word(network, tokenizer, questions, batch_size=batch_size)
        assert result.measures[0].items.tolist() == expected
    assert 0 < sum(expected) < 12  # else all would be the same whatever is summed


def test_a_token_over_the_sentences_end_is_scored_for_all_words() -> None:
    merged = bpe(["a", "b", "c", " ", "a ", "a c"], [("a", " "), ("a ", "c")])
    assert [merged(text)["input_ids"] for text in ("b a", "b a b", "b a c")] == [
        [1, 3, 0],
        [1, 3, 4, 1],
        [1, 3, 5],
    ]
    probability = torch.full((6, 6), 1 / 6)
    probability[3] = torch.tensor([0.02, 0.02, 0.02, 0.02, 0.5, 0.42])
    # the texts differ from the third token on: "a " and b have .5 / 6, "a c" has .42
    result = evaluate_last_word(Table(probability.log()), merged, [LastWordQuestion("b a", ("b", "c"), 0)])
    assert result.measures[0].items.tolist() == [0]
    probability[4] = torch.tensor([0.01, 0.95, 0.01, 0.01, 0.01, 0.01])
    result = evaluate_last_word(Table(probability.log()), merged, [LastWordQuestion("b a", ("b", "c"), 0)])
    assert result.measures[0].items.tolist() == [1]  # .5 * .95 is more than .42


def test_a_diverged_network_gives_nan() -> None:
    result = evaluate_last_word(Table(torch.full((4, 4), math.nan)), bpe(["a", "b", "c", " "]), [QUESTION])
    assert np.isnan(result.measures[0].items).all()
    assert math.isnan(result.per_byte)


def test_limit_and_progress() -> None:
    tokenizer = bpe(["a", "b", "c", " "])
    table = Table(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).train()
    questions = [LastWordQuestion("a b a", ("bb", "cc", "ca", "ab"), answer) for answer in (0, 1, 2, 3, 0)]
    whole = evaluate_last_word(table, tokenizer, questions).measures[0].items
    seen: list[tuple[int, int]] = []
    some = evaluate_last_word(
        table, tokenizer, questions, limit=2, batch_size=2, progress=lambda *counts: seen.append(counts)
    )
    assert some.measures[0].items.tolist() == whole[[0, 2]].tolist()  # 0 and 5/2
    # the words of both questions have three beginnings, two of them are read first: six words, then all eight
    assert seen == [(1, 2), (2, 2)]
    assert table.training


def test_a_word_without_a_token_is_refused() -> None:
    question = LastWordQuestion("a b", ("", "a"), 0)
    tokenizer = bpe(["a", "b"])  # knows no space
    with pytest.raises(ValueError, match="the tokenizer gives '' no token after 'a b'"):
        evaluate_last_word(Table(torch.zeros(2, 2)), tokenizer, [question])
    with pytest.raises(ValueError, match="questions must have at least one question, got none"):
        evaluate_last_word(Table(torch.zeros(2, 2)), tokenizer, [])


def test_a_trained_network_is_far_above_chance(shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260K"
    text = (shared_data / "text" / "tinystories" / "valid_sample.txt").read_text()
    questions = last_word_choices(text[:200_000], count=60)
    result = evaluate_last_word(load_causal_lm(folder), load_tokenizer(folder), questions)
    assert result.measures[0].value > 0.6  # 0.77 over 500 questions; 60 have a standard error of 0.055
    assert result.measures[1].value > 0.05  # 0.16 over 500, likewise
