"""Similarities against known scores, and vectors against the reference's."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fulgurite.evaluation import evaluate_similarity
from fulgurite.models import Pooling


class Lookup(nn.Module):
    """A network that looks each token up."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        with torch.no_grad():
            self.table.weight.normal_(generator=torch.Generator().manual_seed(seed))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


@dataclass
class Pairs:
    first: Tensor
    second: Tensor
    scores: Tensor


def pairs_of(n: int = 40, seed: int = 0) -> Pairs:
    """Texts of five tokens of which 0 to 5 are the same; the score says how many, in an arbitrary unit."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(1, 50, (n, 5), generator=generator)
    kept = torch.randint(0, 6, (n,), generator=generator)
    other = torch.randint(1, 50, (n, 5), generator=generator)
    second = torch.where(torch.arange(5) < kept[:, None], first, other)
    return Pairs(first, second, 7.0 * kept)


def vectors_of(network: Lookup, rows: Tensor) -> Tensor:
    return functional.normalize(network.table.weight[rows].mean(1), dim=1).detach()


def test_the_score_is_the_rank_correlation_of_cosines() -> None:
    network, pairs = Lookup(), pairs_of()
    spearman, _ = evaluate_similarity(network, pairs, Pooling(), pad_token=0).measures
    cosines = (vectors_of(network, pairs.first) * vectors_of(network, pairs.second)).sum(1)
    np.testing.assert_allclose(spearman.items, cosines, atol=1e-6)

    def ranks(values: np.ndarray) -> np.ndarray:
        return (values[None] < values[:, None]).sum(1) + (values[None] == values[:, None]).sum(1) / 2

    expected = np.corrcoef(ranks(spearman.items), ranks(pairs.scores.numpy()))[0, 1]
    assert spearman.value == pytest.approx(expected)
    assert spearman.value > 0.7  # common tokens decide the cosine
    assert spearman.chance == 0


def test_the_reference_is_faithful_to_itself_and_one_vector_for_all_is_chance() -> None:
    network, pairs = Lookup(), pairs_of()
    own = evaluate_similarity(network, pairs, Pooling(), pad_token=0)
    _, fidelity = own.measures
    assert fidelity.value == pytest.approx(1, abs=1e-12)
    mean = functional.normalize(own.vectors.mean(0), dim=0)
    assert fidelity.chance == pytest.approx(float((own.vectors @ mean).mean()), abs=1e-6)
    constant = Lookup()
    with torch.no_grad():
        constant.table.weight.copy_(mean.expand(50, 8))
    _, lost = evaluate_similarity(constant, pairs, Pooling(), 0, reference=own.vectors).measures
    assert lost.value == pytest.approx(fidelity.chance, abs=1e-6)


def test_fidelity_is_the_mean_cosine_with_the_reference() -> None:
    network, other, pairs = Lookup(), Lookup(seed=1), pairs_of()
    with torch.no_grad():
        other.table.weight.mul_(0.5).add_(network.table.weight)
    own = evaluate_similarity(network, pairs, Pooling(), pad_token=0)
    _, fidelity = evaluate_similarity(other, pairs, Pooling(), 0, reference=own.vectors).measures
    cosines = [
        (vectors_of(network, rows) * vectors_of(other, rows)).sum(1) for rows in (pairs.first, pairs.second)
    ]
    np.testing.assert_allclose(fidelity.items, (cosines[0] + cosines[1]) / 2, atol=1e-6)


def test_a_limit_takes_evenly_spaced_pairs() -> None:
    network, pairs = Lookup(), pairs_of(40)
    done: list[int] = []
    whole = evaluate_similarity(network, pairs, Pooling(), pad_token=0)
    some = evaluate_similarity(network, pairs, Pooling(), 0, limit=10, batch_size=4, progress=done.append)
    np.testing.assert_allclose(some.measures[0].items, whole.measures[0].items[::4], atol=1e-6)
    assert done == [2, 4, 6, 8, 10]  # pairs: twice as many texts


def test_a_diverged_network_has_items_without_number() -> None:
    network, pairs = Lookup(), pairs_of()
    own = evaluate_similarity(network, pairs, Pooling(), pad_token=0)
    with torch.no_grad():
        network.table.weight[int(pairs.first[3, 0])] = torch.nan
    found = evaluate_similarity(network, pairs, Pooling(), 0, reference=own.vectors)
    assert all(measure.num_not_finite >= 1 for measure in found.measures)
    assert np.isnan(found.measures[0].value)
    assert np.isnan(found.pearson)


def test_pairs_that_do_not_fit_are_refused() -> None:
    network, pairs = Lookup(), pairs_of()
    with pytest.raises(ValueError, match="as many first texts, second texts and scores, got 40, 40 and 39"):
        evaluate_similarity(network, Pairs(pairs.first, pairs.second, pairs.scores[:-1]), Pooling(), 0)
    with pytest.raises(ValueError, match="at least one pair, got 0"):
        evaluate_similarity(network, Pairs(pairs.first[:0], pairs.second[:0], pairs.scores[:0]), Pooling(), 0)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        evaluate_similarity(network, pairs, Pooling(), 0, limit=0)
    with pytest.raises(ValueError, match=r"reference must be \[80, 8\], got \[79, 8\]"):
        evaluate_similarity(network, pairs, Pooling(), 0, reference=torch.ones(79, 8))
