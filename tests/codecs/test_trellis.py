"""Signs by shifted XORs are those of the register, and the search finds the cheapest path."""

import itertools

import numpy as np
import pytest
import torch

from fulgurite.codecs import _trellis_kernel as kernel
from fulgurite.codecs._trellis import STATES, branch_of, register, signs_of

TRELLISES = STATES[1:]


def signs_by_register(magnitudes: list[int], states: int) -> list[int]:
    """The definition, step by step."""
    first, second = register(states)
    state, signs = 0, []
    for magnitude in magnitudes:
        sign = state & 1
        signs.append((magnitude + sign) & 1)
        branch = int(branch_of(torch.tensor(magnitude)))
        state = (state >> 1) ^ (sign * first) ^ (branch * second)
    return signs


@pytest.mark.parametrize("states", TRELLISES)
@pytest.mark.parametrize("length", [1, 2, 9, 300])  # 300: longer than any register
def test_signs_are_those_of_the_register(states: int, length: int) -> None:
    magnitudes = torch.randint(0, 9, (3, length), generator=torch.Generator().manual_seed(states))
    expected = [signs_by_register(row, states) for row in magnitudes.tolist()]
    assert signs_of(magnitudes.to(torch.uint8), states).tolist() == expected


@pytest.mark.parametrize("states", TRELLISES)
def test_every_state_has_two_predecessors_with_different_branches(states: int) -> None:
    before, branch = kernel.predecessors(states, *register(states))
    assert sorted(before.reshape(-1).tolist()) == sorted(2 * list(range(states)))
    for state in range(states):
        pairs = set(zip(before[state].tolist(), branch[state].tolist(), strict=True))
        assert len(pairs) == 2


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_no_path_is_cheaper_than_viterbis(states: int, lam: float) -> None:
    targets = np.random.default_rng(states).normal(size=6).astype(np.float32) * 1.5
    top = 4  # 5 magnitudes in 6 places: 15,625 paths to compare with
    levels = (np.arange(top + 1, dtype=np.float32) + 0.5)[None]
    rates = np.array([[0.5, 1.0, 2.0, 3.0, 4.0]], dtype=np.float32)
    kinds, found = np.zeros(6, np.uint8), np.zeros(6, np.int32)
    values = np.zeros(6, np.float32)
    trellis = kernel.predecessors(states, *register(states))
    kernel.choose(targets, kinds, kinds, levels, rates, lam, *trellis, 6, found, values)

    def cost(magnitudes: tuple[int, ...]) -> float:
        signs = np.array(signs_by_register(list(magnitudes), states))
        chosen = np.where(signs, -1, 1) * levels[0][list(magnitudes)]
        return float(((targets - chosen) ** 2).sum() + lam * rates[0][list(magnitudes)].sum())

    least = min(cost(path) for path in itertools.product(range(top + 1), repeat=6))
    assert cost(tuple(found.tolist())) == pytest.approx(least, rel=1e-5)


def test_segments_start_anew() -> None:
    targets = np.random.default_rng(0).normal(size=64).astype(np.float32)
    levels = (np.arange(8, dtype=np.float32) + 0.5)[None]
    rates = np.zeros((1, 8), np.float32)
    kinds = np.zeros(64, np.uint8)
    trellis = kernel.predecessors(8, *register(8))
    whole, values = np.zeros(64, np.int32), np.zeros(64, np.float32)
    kernel.choose(targets, kinds, kinds, levels, rates, 0.0, *trellis, 32, whole, values)
    half, _ = np.zeros(32, np.int32), None
    kernel.choose(targets[32:], kinds[32:], kinds[32:], levels, rates, 0.0, *trellis, 32, half, values[:32])
    np.testing.assert_array_equal(whole[32:], half)
