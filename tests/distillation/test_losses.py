"""Losses are 0 where student and teacher agree, grow where they do not, and compare only what can be compared."""

import math

import pytest
import torch
from torch import Tensor

from fulgurite.distillation import (
    TopLogits,
    attention_transfer,
    contrastive,
    cosine_distance,
    hidden_distance,
    label_loss,
    logits_divergence,
    similarity_distance,
    top_divergence,
    value_relations,
)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LOGITS, OTHER = values(2, 5, 11), values(2, 5, 11, seed=1)


def padded_differs(tensor: Tensor) -> Tensor:
    """The same but where ``MASK`` says that there is no text."""
    changed = tensor.clone()
    changed[1, 3:] += 7
    return changed


def test_divergence_of_logits_is_that_of_the_softened_distributions() -> None:
    temperature = 2.0
    student, teacher = (torch.softmax(part / temperature, -1) for part in (OTHER, LOGITS))
    each = (teacher * (teacher / student).log()).sum(-1)
    expected = temperature**2 * each[MASK.bool()].mean()
    assert logits_divergence(OTHER, LOGITS, MASK, temperature).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert logits_divergence(LOGITS, LOGITS, MASK).item() == pytest.approx(0, abs=1e-6)


def test_all_top_logits_give_the_whole_divergence_and_few_a_lower_bound() -> None:
    whole = logits_divergence(OTHER, LOGITS, MASK, 1.5).item()
    every = top_divergence(OTHER, TopLogits.of(LOGITS, 11, 1.5), MASK, 1.5).item()
    assert every == pytest.approx(whole, rel=1e-3)  # the rest is clamped at 1e-6
    few = [top_divergence(OTHER, TopLogits.of(LOGITS, count, 1.5), MASK, 1.5).item() for count in (1, 3, 6)]
    assert 0 < few[0] < few[1] < few[2] < whole
    assert top_divergence(LOGITS, TopLogits.of(LOGITS, 3, 1.0), MASK).item() == pytest.approx(0, abs=1e-5)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must share their tokens, got logits \[2, 5, 7\] and \[2, 5, 11\]"):
        logits_divergence(OTHER[..., :7], LOGITS, MASK)
    with pytest.raises(ValueError, match="must share their tokens, the teacher has token"):
        top_divergence(OTHER[..., :1], TopLogits.of(LOGITS, 3, 1.0), MASK)


def test_labels_are_the_next_tokens_of_text() -> None:
    tokens = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    uniform = torch.zeros(2, 5, 11)
    assert label_loss(uniform, tokens, MASK).item() == pytest.approx(math.log(11))
    told = torch.nn.functional.one_hot(tokens.roll(-1, 1), 11).float() * 50
    assert label_loss(told, tokens, MASK).item() == pytest.approx(0, abs=1e-4)


def test_padding_does_not_count() -> None:
    assert logits_divergence(padded_differs(LOGITS), LOGITS, MASK).item() == pytest.approx(0, abs=1e-6)
    assert hidden_distance([padded_differs(LOGITS)], [LOGITS], MASK).item() == 0
    changed = padded_differs(LOGITS)
    assert value_relations(changed, LOGITS, MASK).item() == pytest.approx(0, abs=1e-6)


def test_hidden_distance_is_relative() -> None:
    assert hidden_distance([torch.zeros_like(LOGITS)], [1000 * LOGITS], MASK).item() == pytest.approx(1)
    assert hidden_distance([0.5 * LOGITS, LOGITS], [LOGITS, LOGITS], MASK).item() == pytest.approx(0.125)


def test_maps_of_fewer_heads_are_compared_by_their_mean() -> None:
    maps = values(2, 4, 5, 5).softmax(-1)
    assert attention_transfer([maps], [maps], MASK).item() == pytest.approx(0, abs=1e-6)
    mean = maps.mean(1, keepdim=True).expand(-1, 2, -1, -1)
    assert attention_transfer([mean], [maps], MASK).item() == pytest.approx(0, abs=1e-6)
    assert attention_transfer([values(2, 4, 5, 5, seed=3).softmax(-1)], [maps], MASK).item() > 0.1


def test_relations_of_values_do_not_depend_on_the_basis() -> None:
    rotation = torch.linalg.qr(values(11, 11, seed=5)).Q
    assert value_relations(LOGITS @ rotation, LOGITS, MASK).item() == pytest.approx(0, abs=1e-5)
    assert value_relations(OTHER, LOGITS, MASK).item() > 0.1


def test_vectors() -> None:
    ours, theirs = values(6, 8), values(6, 8, seed=2)
    assert cosine_distance(3 * ours, ours).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(-ours, ours).item() == pytest.approx(2)
    rotation = torch.linalg.qr(values(8, 8, seed=5)).Q
    assert similarity_distance(ours @ rotation, ours).item() == pytest.approx(0, abs=1e-9)
    assert similarity_distance(ours[:, :3], theirs).item() > 0.01  # any width
    assert contrastive(theirs, theirs).item() < contrastive(ours, theirs).item()
    with pytest.raises(ValueError, match="must have the teacher's 8 dimensions, got 3"):
        cosine_distance(ours[:, :3], theirs)
