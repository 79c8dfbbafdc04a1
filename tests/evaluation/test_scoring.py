"""Tokens scored row by row, against a pass for each token."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fulgurite.evaluation.scoring import Row, common_prefix, evenly_spaced, score_rows

ROWS = [Row((3, 1, 4, 1, 5), 1), Row((9, 2), 1), Row((6, 5, 3, 5, 8, 9, 7, 9), 4), Row((2, 7, 1), 0)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,  # the usual 0.02 gives nearly uniform logits, which hide mistakes
    )
    return transformers.LlamaForCausalLM(config).eval()


class Counting(nn.Module):
    """Says token 1 with probability ``1 / (1 + tokens read so far)``, and remembers how much it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.shapes: list[tuple[int, int]] = []

    def forward(self, input_ids: Tensor) -> Tensor:
        self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
        read = torch.arange(1, input_ids.shape[1] + 1).float()
        logits = torch.stack([read.log(), torch.zeros_like(read)], dim=-1)  # [T, 2]
        return self.dropout(logits.expand(len(input_ids), -1, -1))


def slow_scores(network: nn.Module, row: Row) -> tuple[list[float], list[bool]]:
    """Each token is predicted by a pass of its own."""
    nats, correct = [], []
    for place in range(row.first, len(row.tokens)):
        if place == 0:
            nats.append(math.log(16))  # nothing before it: a uniform guess of 16 tokens
            correct.append(False)
            continue
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([row.tokens[:place]])).logits[0, -1].double()
        nats.append(-float(logits.log_softmax(0)[row.tokens[place]]))
        correct.append(int(logits.argmax()) == row.tokens[place])
    return nats, correct


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_agree_with_a_slow_loop(network: nn.Module, batch_size: int) -> None:
    for row, scores in zip(ROWS, score_rows(network, ROWS, batch_size=batch_size), strict=True):
        nats, correct = slow_scores(network, row)
        np.testing.assert_allclose(scores.nats, nats, rtol=1e-5)  # the network runs in float32
        assert scores.correct.tolist() == correct


@pytest.mark.parametrize("first", [0, 1, 7, 19])
def test_a_long_row_is_read_in_pieces_with_half_of_them_as_context(first: int) -> None:
    network = Counting()
    (scores,) = score_rows(network, [Row((1,) * 20, first)], max_tokens=6)
    read = np.exp(scores.nats) - 1  # tokens read before each was predicted, by what Counting says
    places = np.arange(max(first, 1), 20)
    assert len(scores.nats) == 20 - first
    assert (read[-len(places) :].round() >= np.minimum(places, 6 // 2)).all()
    assert max(width for _, width in network.shapes) <= 6


def test_pieces_do_not_change_what_needs_no_context() -> None:
    table = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))

    class Last(Counting):
        def forward(self, input_ids: Tensor) -> Tensor:
            return table[input_ids]

    for whole, cut in zip(score_rows(Last(), ROWS), score_rows(Last(), ROWS, max_tokens=2), strict=True):
        np.testing.assert_allclose(cut.nats, whole.nats, rtol=1e-6)
        assert cut.correct.tolist() == whole.correct.tolist()


def test_a_networks_own_positions_are_the_limit(network: nn.Module) -> None:
    row = Row(tuple(index % 16 for index in range(100)), 1)  # 64 positions
    (own,), (given,) = score_rows(network, [row]), score_rows(network, [row], max_tokens=64)
    (more,) = score_rows(network, [row], max_tokens=100)
    assert own.nats.tolist() == given.nats.tolist()
    assert not np.allclose(own.nats[-30:], more.nats[-30:])


def test_modes_are_restored_and_progress_counts_rows() -> None:
    network = Counting().train()
    seen: list[tuple[int, int]] = []
    rows = [Row((1, 0, 0, 0, 1, 1, 0, 0, 1), 1), Row((1, 1), 1), Row((1, 1, 1), 1)]
    scores = score_rows(
        network, rows, batch_size=2, max_tokens=4, progress=lambda *counts: seen.append(counts)
    )
    assert network.training
    assert scores[1].nats.tolist() == pytest.approx([math.log(2)])  # dropout would give 0 or double logits
    # the first row is read in three pieces of 4 tokens, then come the shorter rows
    assert seen == [(0, 3), (2, 3), (3, 3)]


def test_rows_that_differ_in_the_last_token_are_read_once(network: nn.Module) -> None:
    rows = [Row((3, 1, 4, last), 3) for last in range(16)]
    counted = Counting()
    score_rows(counted, [Row((1, 1, 0), 2), Row((1, 1, 1), 2), Row((1, 1, 1), 1)], batch_size=8)
    assert counted.shapes == [(1, 2)]
    probabilities = [math.exp(-float(score.nats[0])) for score in score_rows(network, rows)]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)  # the 16 tokens of one distribution


def test_batches_of_short_rows_are_filled_with_tokens() -> None:
    counted = Counting()
    rows = [Row((bit, *code, 1), 1) for bit in (0, 1) for code in ((0, 0), (0, 1), (1, 0), (1, 1))]
    score_rows(counted, [Row((1,) * 9, 1), *rows], batch_size=1, batch_tokens=12)
    # 8 tokens leave no room for 3 more rows of 3; then 12 // 3 rows at a time
    assert counted.shapes == [(1, 8), (4, 3), (4, 3)]


def test_a_diverged_network_gives_nan() -> None:
    class Broken(Counting):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids) * math.nan

    assert np.isnan(score_rows(Broken(), [Row((1, 1), 1)])[0].nats).all()


def test_a_row_scores_something() -> None:
    with pytest.raises(ValueError, match=r"first must be in \[0, 2\).* got 2"):
        Row((1, 1), 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_tokens": 1}, "max_tokens must be at least 2, got 1"),
    ],
)
def test_numbers_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_rows(Counting(), [Row((1, 1), 1)], **settings)


def test_tokens_of_another_network_are_refused(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="gives token 16, the network knows 16"):
        score_rows(network, [Row((1, 16), 1)])


def test_logits_of_another_length_are_refused() -> None:
    class Pooled(Counting):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids)[:, -1:]

    with pytest.raises(ValueError, match=r"logits must be \[1, 2, 'V'\].* got \[1, 1, 2\]"):
        score_rows(Pooled(), [Row((1, 1, 1), 1)])


def test_common_prefix_and_spacing_by_hand() -> None:
    assert common_prefix((1, 2, 3), (1, 2), (1, 2, 4)) == 2
    assert common_prefix((1, 2), (2, 2)) == 0
    assert evenly_spaced(7, 3) == [0, 2, 4]  # 0, 7/3 and 14/3
    assert evenly_spaced(2, 5) == [0, 1]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        evenly_spaced(7, 0)
