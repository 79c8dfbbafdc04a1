"""Curves to allocate over: random steps, and a codec of any rate that keeps its promise to the byte."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fulgurite.allocation import Candidate, Curve


@dataclass(frozen=True)
class AnyRate:
    """Stands for a codec that can be asked for any rate."""

    bits: float
    kind: str = "any"

    def at_rate(self, bits_per_weight: float) -> "AnyRate":
        return replace(self, bits=bits_per_weight)


def _steps(seed: int, count: int = 3, points: int = 4) -> list[Curve[str]]:
    """Curves of arbitrary points, on the hull or not."""
    random = np.random.default_rng(seed)
    return [
        Curve(
            f"w{index}",
            numel=100,
            candidates=tuple(
                Candidate(f"c{place}", int(random.integers(1, 60)), float(random.exponential()))
                for place in range(points)
            ),
            slope=float(random.exponential() + 0.1),
        )
        for index in range(count)
    ]


def _gaussian(variances: dict[str, float], numel: int = 8000, slope: float = 1.0) -> list[Curve[Any]]:
    """Curves of ``numel * variance * 2^(-2R)``, measured at 1, 2, 4 and 8 bits."""
    return [
        Curve(
            name,
            numel,
            tuple(
                Candidate(AnyRate(bits), numel * bits // 8, numel * variance * 4.0**-bits)
                for bits in (1, 2, 4, 8)
            ),
            slope,
        )
        for name, variance in variances.items()
    ]


@pytest.fixture
def steps() -> Any:
    return _steps


@pytest.fixture
def gaussian() -> Any:
    return _gaussian


@pytest.fixture
def any_rate() -> type[AnyRate]:
    return AnyRate
