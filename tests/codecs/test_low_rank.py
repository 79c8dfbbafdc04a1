"""Truncated decompositions: their error is what theory says, their bytes what was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fulgurite.codecs import (
    Codec,
    EcqCodec,
    Float16Codec,
    LowRankCodec,
    LowRankPlusCodec,
    UniformCodec,
    VptqCodec,
    decode,
    nmse,
)
from fulgurite.codecs._whitened import decompose, right_given_left
from fulgurite.transforms import root_of


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(width: int, rows: int) -> Tensor:
    """Second moment of correlated inputs; singular where there are fewer rows than columns."""
    inputs = gaussian(rows, width, seed=1).double() @ gaussian(width, width, seed=2).double() / width**0.5
    found: Tensor = inputs.T @ inputs / rows
    return found


def cost(error: Tensor, hessian: Tensor, rows: Tensor) -> float:
    """The definition of ``Codec.encode``, row by row."""
    return sum(
        float(weight * row @ hessian @ row) for row, weight in zip(error.double(), rows.double(), strict=True)
    )


@pytest.mark.parametrize("rows", [400, 20], ids=["regular", "singular"])  # 20 inputs of 48
@pytest.mark.parametrize("shape", [(32, 48), (80, 48)], ids=str)
@pytest.mark.parametrize("rank", [1, 7, 20])
def test_the_measured_error_is_the_discarded_energy(rows: int, shape: tuple[int, int], rank: int) -> None:
    weight, hessian = gaussian(*shape), moment(48, rows)
    row_weight = torch.linspace(0.1, 3, shape[0])
    spectrum = decompose(weight, hessian, row_weight)
    left, right = spectrum.factors(min(rank, spectrum.rank))
    measured = cost(weight.double() - left @ right, hessian, row_weight)
    discarded = float(spectrum.lost()[min(rank, spectrum.rank)])
    whole = cost(weight, hessian, row_weight)
    assert spectrum.energy == pytest.approx(whole, rel=1e-9)
    # where nothing is discarded, rounding of the whole is what is left
    assert measured == pytest.approx(discarded, rel=1e-4, abs=1e-12 * whole)


def test_the_error_as_stored_is_the_discarded_energy() -> None:
    weight, hessian = gaussian(64, 48), moment(48, 400)
    encoded = LowRankCodec(rank=8, damping=0).encode(weight, hessian.float())
    discarded = float(decompose(weight, hessian, None).lost()[8])
    # fp16 factors are wrong by 2^-12 of each entry: 1e-7 of the energy, at half of which this truncates
    assert cost(weight - decode(encoded), hessian, torch.ones(64)) == pytest.approx(discarded, rel=1e-4)


def test_alternating_least_squares_comes_to_the_same_matrix() -> None:
    weight, hessian = gaussian(12, 10).double(), moment(10, 100)
    best = torch.matmul(*decompose(weight, hessian, None).factors(3))
    left, right = decompose(weight, None, None).factors(3)  # where a plain SVD would stop
    plain = cost(weight - left @ right, hessian, torch.ones(12))
    for _ in range(200):
        left = weight @ hessian @ right.T @ torch.linalg.inv(right @ hessian @ right.T)
        right = torch.linalg.inv(left.T @ left) @ left.T @ weight
    torch.testing.assert_close(left @ right, best, rtol=0, atol=1e-4)
    assert cost(weight - best, hessian, torch.ones(12)) < 0.98 * plain


def test_a_singular_hessian_keeps_what_no_input_reaches() -> None:
    weight = gaussian(16, 24)
    hessian = torch.diag((torch.arange(24) < 4).double())  # 4 inputs of 24 are ever used
    decoded = decode(LowRankCodec(rank=4, damping=0, inner=Float16Codec()).encode(weight, hessian))
    assert torch.isfinite(decoded).all()
    torch.testing.assert_close(decoded[:, :4], weight[:, :4], rtol=0, atol=5e-3)  # 4 directions cost all
    # the rest is projected on the same outputs, not dropped
    outputs, _ = torch.linalg.qr(weight[:, :4])
    torch.testing.assert_close(decoded[:, 4:], outputs @ outputs.T @ weight[:, 4:], rtol=0, atol=5e-3)


def test_a_root_of_a_singular_matrix_is_one() -> None:
    hessian = moment(12, 5)
    root = root_of(hessian)
    torch.testing.assert_close(root @ root.T, hessian, rtol=0, atol=1e-12)


def test_energy_and_error_choose_the_least_rank_that_keeps_them() -> None:
    left, right = torch.linalg.qr(gaussian(32, 32))[0], torch.linalg.qr(gaussian(32, 32, seed=1))[0]
    weight = (left * torch.tensor([0.5**index for index in range(32)])) @ right  # energies 4^-index
    by_energy = LowRankCodec(energy=0.99, damping=0).encode(weight)
    by_error = LowRankCodec(error=0.01, damping=0).encode(weight)
    # after 3 of these 4^-3 = 1.6 % are lost, after 4 0.4 %
    assert by_energy.meta["rank"] == by_error.meta["rank"] == 4
    assert nmse(weight, decode(by_energy)) == pytest.approx(4.0**-4, rel=0.01)


@pytest.mark.parametrize("bits", [0.5, 2.0, 5.0])
def test_bits_choose_the_largest_rank_that_fits(bits: float) -> None:
    encoded = LowRankCodec(bits_per_weight=bits).encode(gaussian(96, 64))
    each = 16 * (96 + 64) / (96 * 64)  # bits per weight of one more singular value
    assert encoded.bits_per_weight <= bits < encoded.bits_per_weight + each


def test_an_inner_codec_of_any_rate_fills_the_budget() -> None:
    codec = LowRankCodec(inner=EcqCodec(rate=4, states=4))
    encoded = codec.at_rate(2.1).encode(gaussian(128, 96))
    assert encoded.bits_per_weight == pytest.approx(2.1, rel=0.02)
    assert encoded.meta["left_codec"] == encoded.meta["right_codec"] == "ecq"


@pytest.mark.parametrize(
    "codec", [LowRankCodec(rank=32), LowRankCodec(energy=1.0), LowRankCodec(bits_per_weight=16)], ids=repr
)
def test_a_rank_that_saves_nothing_leaves_the_weight_whole(codec: Codec) -> None:
    weight = gaussian(64, 64)  # break-even at rank 32
    encoded = codec.encode(weight)
    assert encoded.meta["rank"] == 0
    assert encoded.num_bytes == Float16Codec().encode(weight).num_bytes
    assert torch.equal(decode(encoded), decode(Float16Codec().encode(weight)))


@pytest.mark.parametrize(
    "inner",
    [
        Float16Codec(),
        UniformCodec(bits=6, group_size=16),
        EcqCodec(rate=5, states=4),
        VptqCodec(2, 64, iterations=4),
    ],
    ids=lambda codec: codec.name,
)
def test_factors_come_back_from_any_codec(inner: Codec) -> None:
    weight = gaussian(64, 8) @ gaussian(8, 96, seed=1)  # of rank 8: what is lost is lost in coding
    hessian = moment(96, 400).float()
    encoded = LowRankCodec(rank=8, inner=inner).encode(weight, hessian)
    assert encoded.meta["rank"] == 8
    assert nmse(weight, decode(encoded)) < 0.1  # 3 bits leave 3 %


def test_the_right_factor_makes_up_for_the_left() -> None:
    weight = gaussian(40, 30).double()
    spectrum = decompose(weight, None, None)
    left, right = spectrum.factors(6)
    coarse = decode(UniformCodec(bits=3, group_size=6).encode(left)).double()
    refitted = coarse @ right_given_left(coarse, weight, spectrum.scale)
    assert (weight - refitted).square().sum() < (weight - coarse @ right).square().sum()


def test_nested_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="inner must be a codec that holds no other, got low_rank"):
        LowRankCodec(inner=LowRankCodec())
    with pytest.raises(ValueError, match="factors must be a codec that holds no other"):
        LowRankPlusCodec(factors=LowRankPlusCodec())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"energy": 1.5}, "energy must be above 0 and at most 1, got 1.5"),
        ({"error": -0.1}, r"error must be in \[0, 1\), got -0.1"),
        ({"bits_per_weight": 0}, "bits_per_weight must be above 0, got 0"),
        ({"rank": 3, "energy": 0.5}, "one of rank, energy, error and bits_per_weight may be given"),
        ({"damping": -1}, "damping must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowRankCodec(**settings)  # type: ignore[arg-type]


def test_a_codec_that_is_not_known_is_refused() -> None:
    encoded = LowRankCodec(rank=2).encode(gaussian(24, 24))
    wrong = type(encoded)(
        encoded.codec,
        encoded.shape,
        encoded.dtype,
        encoded.tensors,
        {**encoded.meta, "left_codec": "low_rank"},
    )
    with pytest.raises(ValueError, match=r"left_codec must be one of .*fp16.*, got 'low_rank'"):
        decode(wrong)


def test_a_correction_finds_what_the_inner_codec_lost() -> None:
    low = gaussian(64, 2) @ gaussian(2, 96, seed=1)
    weight = low + 0.1 * gaussian(64, 96, seed=2)
    inner = UniformCodec(bits=2, group_size=96, search=True)
    corrected = LowRankPlusCodec(rank=2, inner=inner, iterations=3).encode(weight)
    assert corrected.num_bytes == inner.encode(weight).num_bytes + 2 * 2 * (64 + 96)
    # two directions hold 99 % of the energy, and what is left needs a smaller step
    assert nmse(weight, decode(corrected)) < 0.5 * nmse(weight, decode(inner.encode(weight)))


def test_more_rounds_do_not_lose() -> None:
    weight, hessian = gaussian(48, 64), moment(64, 300).float()
    errors = [
        cost(
            weight - decode(LowRankPlusCodec(rank=4, iterations=count).encode(weight, hessian)),
            hessian.double(),
            torch.ones(48),
        )
        for count in (1, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)


def test_a_budget_holds_both_and_is_never_worse_than_the_inner_codec_alone() -> None:
    weight = gaussian(96, 1) @ gaussian(1, 128, seed=1) * 3 + gaussian(96, 128, seed=2)
    inner = EcqCodec(states=4)
    both = LowRankPlusCodec(rank=1, inner=inner, start="low_rank", bits_per_weight=1.5).encode(weight)
    alone = inner.at_rate(1.5).encode(weight)
    assert both.bits_per_weight <= 1.5 * 1.01
    assert both.meta["rank"] == 1  # nine tenths of the energy for 0.3 bits
    assert nmse(weight, decode(both)) < nmse(weight, decode(alone))
    flat = LowRankPlusCodec(rank=1, inner=inner, bits_per_weight=1.5).encode(gaussian(96, 128))
    assert flat.meta["rank"] == 0


def test_a_budget_needs_a_codec_of_any_rate() -> None:
    with pytest.raises(ValueError, match="bits_per_weight needs an inner codec of any rate, such as ecq"):
        LowRankPlusCodec(inner=UniformCodec(), bits_per_weight=3)
