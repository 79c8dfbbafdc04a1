"""How codebooks are used, and that rare codes come back."""

import math

import pytest
import torch

from fulgurite.vqvae.health import Usage, expected_dead, perplexity
from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.quantiser import Quantiser, QuantiserSettings


def test_perplexity_of_known_shares() -> None:
    counts = torch.tensor([[1, 1, 1, 1], [7, 0, 0, 0], [3, 1, 0, 0]])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    torch.testing.assert_close(perplexity(counts), torch.tensor([4.0, 1.0, expected], dtype=torch.float64))


def test_counts_are_of_all_batches(rows: torch.Tensor, categories: dict[str, list[int]]) -> None:
    found = Hierarchy.start(
        rows, categories, {"tied": [2, 0, 1], "free": [1, 0, 0]}, QuantiserSettings(codes=16)
    ).eval()
    usage = Usage(found)
    for part in torch.split(rows, 100):
        usage.add(found(part))
    health = {(one.category, one.level): one for one in usage.health()}
    assert set(health) == {("tied", 0), ("tied", 2), ("free", 0)}
    codes = found.encode(rows)
    used = codes["free"][:, 0].unique().numel() / 16
    assert health["free", 0].used == pytest.approx(used)
    assert health["tied", 0].tokens == 2
    assert health["tied", 0].rows == 700
    assert 1 < health["tied", 0].perplexity <= 16
    usage.clear()
    assert not usage.health()


def test_dead_codes_are_revived_by_training_and_not_without() -> None:
    latents = torch.randn(400, 1, 2)
    shares = {}
    for revive in (0.0, 0.1):
        quantiser = Quantiser(
            1, 2, QuantiserSettings(codes=32, revive_below=revive, decay=0.8), rows=400
        ).train()
        with torch.no_grad():
            quantiser.inner._codebook.embed[:, 4:] = 100.0  # far from everything: nothing chooses these
            quantiser.inner._codebook.embed_avg[:, 4:] = 100.0
        for _ in range(60):
            quantiser(latents)
        shares[revive] = quantiser.nearest(latents).unique().numel() / 32
    assert shares[0.0] < 0.2  # the four that were near
    assert shares[0.1] > 0.9


def test_few_rows_leave_codes_unused_by_chance(rows: torch.Tensor, categories: dict[str, list[int]]) -> None:
    found = Hierarchy.start(
        rows, categories, {"tied": [1, 0, 0], "free": [1, 0, 0]}, QuantiserSettings(codes=16)
    ).eval()
    usage = Usage(found)
    usage.add(found(rows[:16]))
    # as many rows as codes, all alike: exp(-1)
    assert expected_dead(usage.health()[0]) == pytest.approx(math.exp(-1))
