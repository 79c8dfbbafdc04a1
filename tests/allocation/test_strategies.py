"""What each strategy gives its bits to, and that all meet the same target."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fulgurite.allocation import (
    STRATEGIES,
    Curve,
    Statistics,
    Strategy,
    Target,
    allocate,
    modelled,
    statistics_of,
)

Gaussian = Callable[..., list[Curve[Any]]]

# three tensors that differ in one statistic each, by a factor of 16: two bits
KNOWN = {
    "plain": Statistics(variance=1.0, dimensionality=0.05, information=1.0),
    "loud": Statistics(variance=16.0, dimensionality=0.05, information=1.0),
    "broad": Statistics(variance=1.0, dimensionality=0.8, information=1.0),
    "rich": Statistics(variance=1.0, dimensionality=0.05, information=16.0),
}


def bits_of(curves: list[Curve[Any]], strategy: Strategy, bits: float = 3.0) -> dict[str, float]:
    found = allocate(modelled(curves, strategy, KNOWN), Target(bits_per_weight=bits))
    return {name: choice.bits_per_weight for name, choice in found.choices.items()}


@pytest.mark.parametrize(
    ("strategy", "favoured"), [("variance", "loud"), ("dimensionality", "broad"), ("information", "rich")]
)
def test_four_times_the_statistic_is_a_bit_more(
    gaussian: Gaussian, strategy: Strategy, favoured: str
) -> None:
    bits = bits_of(gaussian(dict.fromkeys(KNOWN, 1.0)), strategy)
    for name in KNOWN:
        # 1/2 log2(16), a step of 1/32 either way
        assert bits[favoured] - bits[name] == pytest.approx(2.0 * (name != favoured), abs=1 / 16)


def test_balanced_gives_the_mean_of_the_three(gaussian: Gaussian) -> None:
    curves = gaussian(dict.fromkeys(KNOWN, 1.0))
    parts = [bits_of(curves, strategy) for strategy in ("variance", "dimensionality", "information")]
    balanced = bits_of(curves, "balanced")
    for name in KNOWN:
        assert balanced[name] == pytest.approx(sum(part[name] for part in parts) / 3, abs=1 / 16)


def test_uniform_gives_all_the_same_whatever_they_are(gaussian: Gaussian) -> None:
    curves = gaussian({"a": 1.0, "b": 100.0, "c": 1e-3})
    found = allocate(modelled(curves, "uniform"), Target(bits_per_weight=2.6))
    for choice in found.choices.values():
        assert choice.bits_per_weight == pytest.approx(2.6, abs=1 / 32)


def test_slope_takes_what_was_measured(gaussian: Gaussian) -> None:
    curves = gaussian({"a": 1.0, "b": 100.0})
    assert modelled(curves, "slope") == curves


def test_every_strategy_meets_the_same_budget(gaussian: Gaussian) -> None:
    curves = gaussian({name: 1.0 + index for index, name in enumerate(KNOWN)})
    for strategy, budget in itertools.product(STRATEGIES, (6000, 13_001)):
        found = allocate(modelled(curves, strategy, KNOWN), Target(num_bytes=budget), {"files": 500})
        assert budget - 1 <= found.num_bytes <= budget, strategy


def test_a_weight_of_zeros_gets_the_least(gaussian: Gaussian) -> None:
    known = {"zero": statistics_of(torch.zeros(8, 8)), "some": statistics_of(torch.randn(8, 8))}
    for strategy in ("variance", "dimensionality", "information", "balanced"):
        found = allocate(
            modelled(gaussian({"zero": 1.0, "some": 1.0}), strategy, known), Target(bits_per_weight=3)
        )
        assert found.choices["zero"].bits_per_weight == 1.0, strategy


def test_an_unknown_strategy_is_refused(gaussian: Gaussian) -> None:
    with pytest.raises(ValueError, match="strategy must be one of slope, uniform, .* got 'even'"):
        modelled(gaussian({"a": 1.0}), "even")  # type: ignore[arg-type]
