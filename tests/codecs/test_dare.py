"""Drop and rescale against its definition: masks of seeds, the papers' scales, what a survivor costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fulgurite.codecs import DareCodec, decode
from fulgurite.codecs._hessian import weighted_error
from fulgurite.codecs._seed_mask import random_mask


def delta(rows: int = 64, columns: int = 96) -> Tensor:
    return 0.002 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def moment(width: int) -> Tensor:
    """Second moment of inputs with a mean, which is what errors of dropping add up along."""
    mean = torch.linspace(0.5, 1.5, width)
    return torch.outer(mean, mean) + 0.5 * torch.eye(width)


def splitmix(state: int) -> int:
    """The generator's published code, on Python's integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_a_mask_is_what_its_definition_says_on_any_machine() -> None:
    first = splitmix(77)
    words = [splitmix((first + place * 0x9E3779B97F4A7C15) % 2**64) for place in range(1, 13)]
    expected = [word >> 32 >= round(0.3 * 2**32) for word in words]
    assert random_mask(3, 4, 0.3, seed=77).flatten().tolist() == expected


@pytest.mark.parametrize("drop", [0.0, 0.5, 0.9, 0.99])
def test_so_many_are_dropped(drop: float) -> None:
    kept = random_mask(300, 300, drop, seed=3).float().mean()
    assert (
        abs(float(kept) - (1 - drop)) < 4 * (drop * (1 - drop) / 90_000) ** 0.5 + 1e-9
    )  # four standard errors


def test_masks_of_two_seeds_are_independent() -> None:
    first, second = (random_mask(300, 300, 0.5, seed).float() - 0.5 for seed in (1, 2))
    assert abs(float((first * second).mean())) < 4 * 0.25 / 300


def test_unbiased_is_the_papers_rule() -> None:
    weight = delta()
    decoded = decode(DareCodec(drop=0.8, rescale="unbiased", seed=5).encode(weight))
    expected = weight * random_mask(64, 96, 0.8, seed=5) / (1 - 0.8)
    torch.testing.assert_close(decoded, expected, rtol=1e-3, atol=1e-6)  # 16-bit survivors


def test_the_fitted_scale_is_the_best_of_each_row() -> None:
    weight, hessian = delta(), moment(96)
    codec = DareCodec(drop=0.5)
    decoded = decode(codec.encode(weight, hessian))
    factors = (decoded / weight).sum(1) / (decoded != 0).sum(1)
    inside = (factors > 0.01) & (factors < 1.99)  # the others are held at 0 or at 1 / (1 - drop)
    assert int(inside.sum()) > 32
    costs = {
        change: torch.einsum("ij,jk,ik->i", error, hessian, error)[inside]
        for change in (0.97, 1.0, 1.03)
        for error in [weight - change * decoded]
    }
    assert (costs[1.0] < costs[0.97]).all()
    assert (costs[1.0] < costs[1.03]).all()
    unbiased = decode(replace(codec, rescale="unbiased").encode(weight, hessian))
    assert weighted_error(weight - decoded, hessian) < weighted_error(weight - unbiased, hessian)
    ratio = decoded[decoded != 0] / weight[decoded != 0]
    assert float(ratio.min()) >= 0
    assert float(ratio.max()) <= 2 * (1 + 1e-3)


def test_a_mask_costs_four_bytes() -> None:
    encoded = DareCodec(drop=0.9).encode(delta())
    kept = int(random_mask(64, 96, 0.9, seed=0).sum())
    assert encoded.num_bytes == 4 + 2 * kept


def test_each_weight_has_a_mask_of_its_own_and_always_the_same() -> None:
    weights = {"first": delta(), "second": delta()}
    codec = DareCodec(drop=0.5)
    one, other = (codec.bind(weights) for _ in range(2))
    assert one == other
    masks = [decode(one[name].encode(weight)) != 0 for name, weight in weights.items()]
    assert not torch.equal(*masks)
    assert codec.bind(weights) != replace(codec, seed=1).bind(weights)


def test_few_bits_keep_the_places_and_the_signs() -> None:
    weight = delta()
    exact, coarse = (decode(DareCodec(drop=0.7, bits=bits).encode(weight)) for bits in (16, 3))
    assert torch.equal(exact != 0, coarse != 0)
    assert torch.equal(exact.sign(), coarse.sign())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drop": 1.0}, r"drop must be in \[0, 1\), got 1.0"),
        ({"drop": -0.1}, r"drop must be in \[0, 1\), got -0.1"),
        ({"rescale": "half"}, "rescale must be fit or unbiased, got 'half'"),
        ({"bits": 9}, r"bits must be 16 or in \[1, 8\], got 9"),
        ({"seed": 2**32}, r"seed must be in \[0, 2\*\*32\), got 4294967296"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DareCodec(**settings)  # type: ignore[arg-type]


def test_a_drop_of_a_hostile_file_is_refused() -> None:
    encoded = DareCodec(drop=0.5).encode(delta())
    with pytest.raises(ValueError, match=r"drop must be in \[0, 1\), got 7"):
        decode(replace(encoded, meta={**encoded.meta, "drop": 7.0}))
