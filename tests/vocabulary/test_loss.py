"""Scores by loss are what a network's predictions of the spelt text cost more."""

import math
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from fulgurite.vocabulary import loss as module
from fulgurite.vocabulary import token_scores_by_loss

PIECES = ["?", "a", "b", "c", "ab", "bc"]
NATS = torch.tensor([9.0, 2.0, 3.0, 1.0, 1.5, 6.0])  # of each piece, whatever stands before it


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {piece: token for token, piece in enumerate(PIECES)}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("b", "c")], unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


class Fixed(nn.Module):
    """Predicts each token with the same probability everywhere; the rest goes to one that never comes."""

    def __init__(self) -> None:
        super().__init__()
        rest = (1 - (-NATS).exp().sum()).log()
        self.logits = nn.Parameter(torch.cat([-NATS, rest[None]]))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits.expand(*input_ids.shape, -1)


class Surprised(nn.Module):
    """Guesses evenly, but expects no "c" after "b"."""

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = torch.zeros(*input_ids.shape, len(PIECES))
        logits[..., 3] = torch.where(input_ids == 2, -5.0, 0.0)
        return logits


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, len(PIECES), (6, 40), generator=generator)


def test_scores_are_the_nats_of_the_spelling(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PRIOR_SAMPLES", 1e-9)
    counts = torch.tensor([0, 5, 5, 5, 10, 20])
    scores = token_scores_by_loss(Fixed(), tokenizer, rows(), counts)
    # "ab" as "a", "b": 2 + 3 nats in place of 1.5, 10 times; "bc" as "b", "c" would cost 2 nats less
    torch.testing.assert_close(scores, torch.tensor([0, 0, 0, 0, 35.0, 0]).double(), atol=1e-3, rtol=0)


def test_few_samples_count_less(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.tensor([0, 5, 5, 5, 10, 20])
    text = torch.tensor([[1, 4, 1, 2]])  # "ab" can be replaced, "bc" is never there
    monkeypatch.setattr(module, "_PRIOR_SAMPLES", 4.0)
    scores = token_scores_by_loss(Fixed(), tokenizer, text, counts, passes=1)
    # one sample of 3.5 nats and one token more is the mean as well: both get that
    torch.testing.assert_close(scores[4:], torch.tensor([35.0, 70.0]).double(), atol=1e-3, rtol=0)


def test_what_follows_is_charged_too(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PRIOR_SAMPLES", 1e-9)
    text = torch.tensor([[3, 4, 3, 3, 3]])
    counts = torch.tensor([0, 0, 0, 4, 1, 0])
    scores = token_scores_by_loss(Surprised(), tokenizer, text, counts, passes=1)
    # "a" for "ab" costs the same; "b" log 6 more, and then "c" log(5 + e^-5) + 5 in place of log 6
    assert scores[4].item() == pytest.approx(math.log(5 + math.exp(-5)) + 5, rel=1e-5)


def test_it_is_decided_by_the_seed_and_leaves_the_network(tokenizer: PreTrainedTokenizerFast) -> None:
    network: Any = Fixed().train()
    counts = torch.ones(len(PIECES))
    seen: list[tuple[int, int]] = []
    first = token_scores_by_loss(
        network,
        tokenizer,
        rows(),
        counts,
        batch_size=4,
        progress=lambda done, all_: seen.append((done, all_)),
    )
    assert network.training
    assert seen == [(4, 6), (6, 6)]
    assert torch.equal(first, token_scores_by_loss(network, tokenizer, rows(), counts, batch_size=4))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": torch.zeros(3)}, r"rows must be integers \[n, t\], t from 2, got torch.float32 \[3\]"),
        ({"counts": torch.ones(3)}, r"counts must be \[6\], one a token, got \[3\]"),
        ({"passes": 0}, "passes and batch_size must be at least 1"),
        ({"share": 0.0}, r"share in \(0, 1\]"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tokenizer: PreTrainedTokenizerFast, changed: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"rows": rows(), "counts": torch.ones(len(PIECES)), **changed}
    with pytest.raises(ValueError, match=message):
        token_scores_by_loss(Fixed(), tokenizer, **settings)
