"""Who gets how many codes."""

import pytest
import torch

from fulgurite.allocation import Statistics
from fulgurite.features.curves import measure_errors
from fulgurite.features.gaussian import gaussian_curves
from fulgurite.features.ratios import NAMES, Profile, analyse, plan_codes
from fulgurite.features.sharing import split_levels
from fulgurite.vqvae.quantiser import QuantiserSettings

BITS = 4.0
PROFILES = {
    "flat": Profile(20, Statistics(1.0, 1.0, 1.0), 0.0, 18, (1.0,) * 20),
    "low": Profile(20, Statistics(1.0, 0.25, 0.25), 0.5, 5, (4.0,) * 5 + (0.0,) * 15),
}


def _exponential(slope: float):  # type: ignore[no-untyped-def]
    return lambda count: 2.0 ** (-slope * count)


ERRORS = {"flat": _exponential(0.4), "low": _exponential(1.6)}
"""A code halves an error of five dimensions more than four times as fast as one of twenty."""


def test_the_analysis_finds_what_rows_were_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    tied = torch.randn(4000, 1, generator=generator).repeat(1, 6) + 0.1 * torch.randn(
        4000, 6, generator=generator
    )
    rows = torch.cat([tied / tied.std(0), torch.randn(4000, 6, generator=generator)], dim=1)
    found = analyse(rows, {"tied": list(range(6)), "free": list(range(6, 12))})
    assert found["tied"].statistics.dimensionality == pytest.approx(1 / 6, abs=0.02)  # one of six
    assert found["free"].statistics.dimensionality == pytest.approx(1, abs=0.05)
    assert found["tied"].correlation == pytest.approx(1 / 1.01, abs=0.01)
    assert found["free"].correlation < 0.05  # 1 / sqrt(4000) is 0.016
    assert (found["tied"].directions, found["free"].directions) == (1, 6)


@pytest.mark.parametrize("strategy", NAMES)
def test_every_strategy_spends_the_same(strategy: str) -> None:
    plan = plan_codes(PROFILES, BITS, strategy=strategy, bits_per_feature=1.0, errors=ERRORS)
    assert plan.num_codes == 10  # forty features of one bit in codes of four
    assert all(tokens[0] >= 1 for tokens in plan.tokens.values())


def _totals(strategy: str) -> tuple[int, ...]:
    plan = plan_codes(PROFILES, BITS, strategy=strategy, bits_per_feature=1.0, errors=ERRORS)
    return tuple(sum(tokens) for tokens in plan.tokens.values())


def test_uniform_and_variance_give_features_alike_the_same() -> None:
    assert _totals("uniform") == (5, 5)
    assert _totals("variance") == (5, 5)


def test_models_give_a_quarter_of_the_size_one_bit_less() -> None:
    # R = 1/2 log2 s + c: 1 bit a feature between them, 5 codes of 4 bits for 20 features; 10 codes: 7.5 and 2.5
    assert _totals("information") in ((7, 3), (8, 2))
    assert _totals("dimensionality") == _totals("information")


def test_slope_is_the_least_sum_and_worst_the_least_maximum() -> None:
    def errors(tokens: tuple[int, int]) -> tuple[float, float]:
        return ERRORS["flat"](tokens[0]), ERRORS["low"](tokens[1])

    every = [(count, 10 - count) for count in range(1, 10)]
    assert _totals("slope") == min(every, key=lambda tokens: sum(errors(tokens)))
    assert _totals("worst") == min(every, key=lambda tokens: max(errors(tokens)))


def test_balanced_makes_relative_errors_alike_by_the_spectra() -> None:
    # 4 bits in 20 dimensions: a factor of 4 ** -0.2; in five: 4 ** -0.8; alike at 8 and 2 codes of ten
    assert _totals("balanced") == (8, 2)


def test_balanced_leaves_the_mean_no_worse_than_uniform() -> None:
    # nine dimensions alike and one of its own: errors alike would take most codes for the latter
    wide, narrow = (1.0,) * 27, (1.0,) * 3
    profiles = {
        "wide": Profile(27, Statistics(1.0, 1.0, 1.0), 0.0, 25, (*wide[:-3], 0.1, 0.1, 0.1)),
        "narrow": Profile(3, Statistics(1.0, 1.0, 1.0), 0.0, 3, narrow),
    }
    found = {
        strategy: plan_codes(profiles, 1.0, strategy=strategy, bits_per_feature=0.5, shares=[1, 0, 0]).tokens
        for strategy in ("uniform", "balanced")
    }
    curves = gaussian_curves({name: one.spectrum for name, one in profiles.items()}, 1.0)

    def errors(strategy: str) -> dict[str, float]:
        return {name: curves[name](sum(tokens)) for name, tokens in found[strategy].items()}

    def mean(strategy: str) -> float:
        return sum(profiles[name].features * error for name, error in errors(strategy).items())

    assert mean("balanced") <= mean("uniform")
    assert max(errors("balanced").values()) <= max(errors("uniform").values())


@pytest.mark.parametrize(
    ("count", "most", "codes"),
    [(1, 9, [1, 0, 0]), (2, 9, [1, 1, 0]), (10, 9, [5, 3, 2]), (9, 4, [4, 4, 1]), (12, 4, [4, 4, 4])],
)
def test_levels_share_a_categorys_codes_the_coarse_ones_first(
    count: int, most: int, codes: list[int]
) -> None:
    assert split_levels(count, [0.5, 0.3, 0.2], most) == codes


def test_a_level_without_a_share_has_codes_only_where_the_others_are_full() -> None:
    assert split_levels(6, [0.0, 1.0, 0.0], 4) == [0, 4, 2]


def test_levels_may_have_strategies_of_their_own() -> None:
    strategies, shares = ["uniform", "worst", "slope"], [0.4, 0.3, 0.3]
    plan = plan_codes(PROFILES, BITS, strategy=strategies, bits_per_feature=1.0, shares=shares, errors=ERRORS)
    assert [sum(levels) for levels in zip(*plan.tokens.values(), strict=True)] == [4, 3, 3]
    assert plan.tokens["flat"][0] == plan.tokens["low"][0] == 2
    assert plan.tokens["flat"][1] == 3
    told = {(row["category"], row["level"]): row for row in plan.decisions}
    assert told["flat", 1]["strategy"] == "worst"
    assert told["flat", 0]["ratio"] == pytest.approx(32 * 20 / (2 * BITS))


def test_ratios_are_bits_of_floats_to_bits_of_codes() -> None:
    plan = plan_codes(PROFILES, BITS, ratios={"flat": [32, 80, 1e9], "low": [160, 160, 160]})
    assert plan.tokens == {"flat": (5, 2, 0), "low": (1, 1, 1)}
    assert plan_codes(PROFILES, BITS, ratios=[32, 64, 1e9]).tokens["low"] == (
        5,
        2,
        0,
    )  # 2.5 is rounded to even


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ratios": [1e9, 1e9, 1e9]}, "leave flat no code: a code has 4 bits"),
        ({"bits_per_feature": 0.1}, "leave no code for some of 2 categories"),
        ({"ratios": {"flat": [8, 8, 8]}}, "'low' is missing"),
        ({"ratios": {"flat": [8] * 3, "low": [8] * 3, "colour": [8] * 3}}, "categories flat, low, got 'colour'"),
        ({"ratios": [8, 8]}, "must be 3 numbers above 0"),
        ({"ratios": "best"}, "must be auto, three ratios"),
        ({"strategy": "clever"}, "strategy must be one or 3 of"),
        ({"strategy": "slope", "errors": None}, "need measured errors"),
        ({"shares": [0.0, 0.0, 0.0]}, "level_shares must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plan_codes(PROFILES, BITS, **({"errors": ERRORS} | settings))  # type: ignore[arg-type]


def test_measured_errors_fall_and_are_worse_where_nothing_is_shared() -> None:
    generator = torch.Generator().manual_seed(0)
    tied = torch.randn(900, 1, generator=generator).repeat(1, 6) + 0.05 * torch.randn(
        900, 6, generator=generator
    )
    rows = torch.cat([tied / tied.std(0), torch.randn(900, 6, generator=generator)], dim=1)
    categories = {"tied": list(range(6)), "free": list(range(6, 12))}
    errors = measure_errors(rows[:600], rows[600:], categories, QuantiserSettings(codes=16), most=4)
    for error in errors.values():
        values = [error(count) for count in range(5)]
        assert values == sorted(values, reverse=True)
        assert values[0] == 1
    assert errors["tied"](1) < 0.05  # one cause in four bits: 2 ** -8 and the noise
    assert errors["free"](1) > 0.3  # six dimensions in four bits: 2 ** (-8 / 6) at the least
