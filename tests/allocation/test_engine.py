"""The search: optimal on the hulls, monotone, never over; rates between measured ones; clear refusals."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fulgurite.allocation import Candidate, Curve, Target, allocate

Steps = Callable[..., list[Curve[str]]]
Gaussian = Callable[..., list[Curve[Any]]]


def every_way(curves: list[Curve[str]]) -> np.ndarray[Any, Any]:
    """Bytes and loss of each combination of candidates, ``[combinations, 2]``."""
    return np.array(
        [
            (
                sum(one.num_bytes for one in way),
                sum(curve.slope * one.distortion for curve, one in zip(curves, way, strict=True)),
            )
            for way in itertools.product(*(curve.candidates for curve in curves))
        ]
    )


def reachable(curves: list[Curve[str]]) -> range:
    ways = every_way(curves)[:, 0]
    return range(int(ways.min()), int(ways.max()) + 2)


@pytest.mark.parametrize("seed", range(20))
def test_solutions_of_the_hull_are_the_best_of_all_combinations(steps: Steps, seed: int) -> None:
    curves = steps(seed)
    ways = every_way(curves)
    solutions = 0
    for budget in reachable(curves):
        found = allocate(curves, Target(num_bytes=budget))
        best = ways[ways[:, 0] <= budget, 1].min()
        # where the budget is spent to the byte on whole steps, the Lagrangian's solution is the optimum
        price = found.multiplier
        if found.loss + price * found.num_bytes <= (ways[:, 1] + price * ways[:, 0]).min() * (1 + 1e-12):
            solutions += 1
            assert ways[ways[:, 0] <= found.num_bytes, 1].min() == pytest.approx(found.loss, rel=1e-12)
        # weak duality: no combination within the budget is below the Lagrangian's bound
        bound = (ways[:, 1] + price * (ways[:, 0] - budget)).min()
        assert bound - 1e-12 <= best <= found.loss + 1e-12
    assert solutions > 0, "the property was never put to the test"


@pytest.mark.parametrize("seed", range(20))
def test_never_over_and_never_worse_with_more_bytes(steps: Steps, seed: int) -> None:
    curves = steps(seed, count=4)
    losses = []
    for budget in reachable(curves):
        found = allocate(curves, Target(num_bytes=budget + 7), {"files": 7})
        assert found.num_bytes <= budget + 7
        losses.append(found.loss)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(losses))
    least = sum(curve.slope * min(one.distortion for one in curve.candidates) for curve in curves)
    assert losses[-1] == pytest.approx(least)


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_is_met_with_few_bytes_and_never_exceeded(steps: Steps, seed: int) -> None:
    curves = steps(seed)
    ways = every_way(curves)
    sizes = []
    for limit in np.linspace(ways[:, 1].min() * (1 + 1e-9), ways[:, 1].max(), 40):
        found = allocate(curves, Target(max_loss=float(limit)))
        assert found.loss <= limit * (1 + 1e-12)
        sizes.append(found.num_bytes)
        # within a largest step of the optimum: a hull leaves out at most that
        largest = max(max(one.num_bytes for one in curve.candidates) for curve in curves)
        assert found.num_bytes - ways[ways[:, 1] <= limit, 0].min() <= largest
    assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))


def test_bytes_for_a_loss_and_loss_for_bytes_agree(gaussian: Gaussian) -> None:
    curves = gaussian({"a": 1.0, "b": 9.0, "c": 0.04})
    for num_bytes in (4000, 7001, 15000):
        forwards = allocate(curves, Target(num_bytes=num_bytes))
        backwards = allocate(curves, Target(max_loss=forwards.loss))
        assert backwards.num_bytes == pytest.approx(num_bytes, abs=3)  # rounding to whole bytes


def test_water_filling_on_gaussian_sources(gaussian: Gaussian) -> None:
    """R = 1/2 log2(variance) + constant, but for the source below the water, which gets the least there is."""
    found = allocate(gaussian({"a": 1.0, "b": 16.0, "c": 4.0, "quiet": 1e-4}), Target(bits_per_weight=2.25))
    bits = {name: choice.bits_per_weight for name, choice in found.choices.items()}
    assert bits["b"] - bits["a"] == pytest.approx(2.0, abs=1 / 16)  # 1/2 log2(16), a step of 1/32 either way
    assert bits["c"] - bits["a"] == pytest.approx(1.0, abs=1 / 16)
    assert bits["quiet"] == 1.0
    assert found.bits_per_weight == pytest.approx(2.25, abs=1e-3)
    assert found.choices["b"].candidate.codec.bits == pytest.approx(bits["b"])


def test_any_rate_meets_a_budget_to_the_byte(gaussian: Gaussian) -> None:
    curves = gaussian({"a": 1.0, "b": 3.0}, numel=8123)
    least = sum(curve.candidates[0].num_bytes for curve in curves)
    for budget in range(least, least + 3000, 101):
        assert budget - 1 <= allocate(curves, Target(num_bytes=budget)).num_bytes <= budget


def test_a_slope_counts_as_distortion_does(gaussian: Gaussian) -> None:
    loud, sloped = gaussian({"a": 1.0, "b": 5.0}), gaussian({"a": 1.0, "b": 1.0})
    sloped[1] = replace(sloped[1], slope=5.0)
    target = Target(bits_per_weight=3.0)
    sizes = [
        [choice.candidate.num_bytes for choice in allocate(curves, target).choices.values()]
        for curves in (loud, sloped)
    ]
    assert sizes[0] == pytest.approx(sizes[1], abs=1)  # rounding


def test_there_are_no_rates_between_two_different_codecs(any_rate: Any) -> None:
    points = [(any_rate(1.0), 100, 4.0), (any_rate(3.0, "other"), 300, 0.1), ("fp16", 1600, 0.0)]
    curve = Curve("w", 800, tuple(Candidate(*point) for point in points))
    sizes = {allocate([curve], Target(num_bytes=budget)).num_bytes for budget in range(100, 1700, 50)}
    assert sizes == {100, 300, 1600}


def test_a_mixture_of_codecs_takes_the_better_one_of_equal_bytes() -> None:
    points = [("good", 10, 1.0), ("bad", 10, 2.0), ("worse", 11, 1.5), ("fp16", 160, 0.0)]
    curve = Curve("w", 80, tuple(Candidate(*point) for point in points))
    chosen = [
        allocate([curve], Target(num_bytes=budget)).choices["w"].candidate.codec for budget in (10, 160)
    ]
    assert chosen == ["good", "fp16"]


def test_an_unreachable_budget_names_the_least_and_what_holds_it(gaussian: Gaussian) -> None:
    curves = gaussian({"embed": 1.0, "head": 1.0})
    expected = (  # 8000 weights at 1 bit are 1000 bytes
        "a budget of 2,500 bytes cannot be met: the least possible is 2,780 bytes, "
        "of which embed 1,000, head 1,000, norms in 16 bits 700, manifest and files 80"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        allocate(curves, Target(num_bytes=2500), {"norms in 16 bits": 700, "manifest and files": 80})


def test_what_holds_little_is_summed_up(gaussian: Gaussian) -> None:
    curves = gaussian({f"w{index}": 1.0 for index in range(6)})
    with pytest.raises(ValueError, match=r"0\.5 bits per weight, 3,000 bytes, .* 2 others 2,000$"):
        allocate(curves, Target(bits_per_weight=0.5))


def test_an_unreachable_loss_names_the_least(gaussian: Gaussian) -> None:
    with pytest.raises(ValueError, match=r"a loss of 0\.01 cannot be met: the least possible is 0\.1221"):
        allocate(gaussian({"w": 1.0}), Target(max_loss=0.01))  # 8000 * 2^-16 = 0.1221


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_distortion_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="w: bytes and distortion must be finite"):
        Curve("w", 10, (Candidate("c", 1, bad),))
    with pytest.raises(ValueError, match="w: slope must be above 0"):
        Curve("w", 10, (Candidate("c", 1, 1.0),), slope=bad)


def test_curves_must_be_there_and_differ(gaussian: Gaussian) -> None:
    with pytest.raises(ValueError, match="curves must hold at least one"):
        allocate([], Target(num_bytes=10))
    with pytest.raises(ValueError, match="names of curves must differ, got w, w"):
        allocate([*gaussian({"w": 1.0}), *gaussian({"w": 1.0})], Target(num_bytes=10))
