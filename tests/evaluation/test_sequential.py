"""Looks: boundaries as published, error rates as with one look, and fewer items where a case is clear."""

from statistics import NormalDist

import numpy as np
import pytest

from fulgurite.evaluation import Gate, Measure
from fulgurite.evaluation.sequential import look_confidences, look_sizes, shuffled


def test_boundaries_are_the_published_ones() -> None:
    # Lan and DeMets' spending of O'Brien and Fleming's type, one-sided 2.5 %, five looks: Jennison and Turnbull, "Group
    # Sequential Methods", 1999, and the programs made after it
    found = [NormalDist().inv_cdf(each) for each in look_confidences((0.2, 0.4, 0.6, 0.8, 1.0), 0.975)]
    assert found == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=2e-3)


def test_one_look_is_the_plain_bound() -> None:
    assert look_confidences((1.0,), 0.95) == pytest.approx((0.95,), abs=1e-6)


def test_all_looks_together_spend_the_error_of_one() -> None:
    fractions = tuple(k / 4 for k in range(1, 5))
    bounds = np.array([NormalDist().inv_cdf(each) for each in look_confidences(fractions, 0.95)])
    steps = np.random.default_rng(0).standard_normal((200_000, 4))
    at_looks = steps.cumsum(1) / np.sqrt(np.arange(1, 5))
    crossed = (at_looks > bounds).any(1).mean()
    assert crossed == pytest.approx(0.05, abs=0.0015)  # three standard errors
    careless = (at_looks > NormalDist().inv_cdf(0.95)).any(1).mean()
    assert careless > 0.1, "what four looks at 95 % would do"


@pytest.mark.parametrize(
    ("fractions", "confidence", "message"),
    [
        ((), 0.95, r"must rise within \(0, 1\], got \(\)"),
        ((0.5, 0.5), 0.95, "must rise"),
        ((0.5, 1.5), 0.95, "must rise"),
        ((1.0,), 0.5, r"confidence must be in \(0.5, 1\), got 0.5"),
    ],
)
def test_settings_are_checked(fractions: tuple[float, ...], confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_confidences(fractions, confidence)
    with pytest.raises(ValueError, match="looks must be at least 1, got 0"):
        Gate(looks=0)


def test_looks_end_with_all_items() -> None:
    assert look_sizes(256, 4) == [64, 128, 192, 256]
    assert look_sizes(3, 4) == [1, 2, 3]  # no look without a new item
    assert sorted(shuffled(50, 0)) == list(range(50))
    assert list(shuffled(50, 0)) != list(range(50))


def text(items: np.ndarray) -> Measure:
    return Measure("bits_per_byte", items, np.ones(len(items)), np.full(len(items), 3.0), False, "bits/byte")


def seen(kept: float, seed: int, gate: Gate) -> tuple[int, bool]:
    """Items seen and verdict for a stage that truly keeps a share, on 256 windows of a text."""
    generator = np.random.default_rng(seed)
    reference = generator.gamma(16, 1 / 16, 256)
    candidate = reference + (1 - kept) * (3 - reference) + 0.06 * generator.standard_normal(256)
    sizes = look_sizes(256, gate.looks)
    levels = look_confidences(tuple(size / 256 for size in sizes), gate.confidence)
    plan = gate.plan([text(reference)])
    for size, level in zip(sizes[:-1], levels[:-1], strict=True):
        part = text(reference[:size])
        found = gate.look([part], [part], [text(candidate[:size])], 0.98, plan, level)
        if found is not None:
            return size, found.accepted
    whole = text(reference)
    return 256, gate.decide([whole], [whole], [text(candidate)], 0, plan=plan).accepted


def test_clear_cases_take_few_items_and_end_as_they_should() -> None:
    gate = Gate(resamples=400, looks=4)
    for kept, passes in ((1.0, True), (0.96, False)):
        found = [seen(kept, seed, gate) for seed in range(40)]
        assert all(accepted == passes for _, accepted in found)
        assert np.mean([items for items, _ in found]) <= 128  # half


def test_a_loss_of_just_what_is_allowed_passes_no_more_often_than_one_look_lets_it() -> None:
    gate = Gate(resamples=400, looks=4)
    found = [seen(0.98, seed, gate)[1] for seed in range(150)]
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


def test_a_measure_of_some_items_keeps_their_order() -> None:
    measure = text(np.arange(5.0))
    assert list(measure.take([3, 0]).items) == [3, 0]
    assert measure.take([3, 0]).chance == 3
