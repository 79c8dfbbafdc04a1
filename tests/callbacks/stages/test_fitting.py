"""Decisions that fit the bytes on disk: corrections after encodings that came out otherwise."""

from collections.abc import Callable, Mapping

import pytest
import torch

from callbacks.stages.allocating import Allocate, Decision
from callbacks.stages.curves import Curves
from callbacks.stages.fitting import LEAST, Fitting, without_growth
from fulgurite.allocation import Candidate, Curve, Effect
from fulgurite.codecs import Codec, EcqCodec, Encoded, Float16Codec, UniformCodec

NUMEL = {"small": 10_000, "middle": 40_000, "large": 160_000}
FILES = {"norm (kept as it is)": 700, "manifest, headers and configuration": 4300}


def ecq_ladder() -> tuple[Codec, ...]:
    return (*(EcqCodec(rate=rate) for rate in (0.5, 1.0, 2.0, 4.0, 8.0)), Float16Codec())


def uniform_ladder() -> tuple[Codec, ...]:
    return (*(UniformCodec(bits=bits) for bits in range(1, 9)), Float16Codec())


def bits_of(codec: Codec) -> float:
    if isinstance(codec, EcqCodec):
        return codec.rate
    return codec.bits if isinstance(codec, UniformCodec) else 16.0


def fitting(
    settings: Allocate, ladder: tuple[Codec, ...], loss: float = 0.1, unit: float | None = None
) -> Fitting:
    """Over Gaussian sources of equal variance, whose effects on the network are all alike."""
    curves = []
    for name, numel in NUMEL.items():
        points = [
            (codec, int(numel * bits_of(codec) / 8), numel * 4.0 ** -bits_of(codec)) for codec in ladder
        ]
        curves.append(Curve(name, numel, tuple(Candidate(*point) for point in points)))
    effects = {name: [Effect(numel // 4, numel / 16, loss, 1e-3)] for name, numel in NUMEL.items()}
    return Fitting(settings, dict.fromkeys(NUMEL, ladder), Curves(curves, effects, {}), unit)


def settled(
    fit: Fitting, ladder: tuple[Codec, ...], encode: Callable[[str, Codec], int]
) -> tuple[Decision, dict[str, int]]:
    """Encode and correct until the decision is final."""
    decision = fit.first(FILES)
    for _ in range(20):
        codecs = decision.codecs(dict.fromkeys(NUMEL, ladder))
        sizes = {name: encode(name, codec) for name, codec in codecs.items()}
        following = fit.corrected(decision, sizes, FILES)
        if following.final:
            return following, sizes
        assert following.choices != decision.choices, "a correction changes something"
        decision = following
    raise AssertionError("no end of corrections")


def whole(sizes: Mapping[str, int]) -> int:
    return sum(sizes.values()) + sum(FILES.values())


@pytest.mark.parametrize("budget", [20_000, 60_000, 150_000])
@pytest.mark.parametrize("off", [0.97, 0.992, 1.0, 1.004, 1.03])
def test_any_rate_fills_a_budget_to_a_percent_from_below(budget: int, off: float) -> None:
    """Every weight comes out at ``off`` times the bytes that were asked for."""
    ladder = ecq_ladder()
    fit = fitting(Allocate(budget=budget), ladder)
    _, sizes = settled(fit, ladder, lambda name, codec: int(off * NUMEL[name] * bits_of(codec) / 8))
    assert LEAST * budget <= whole(sizes) <= budget


def test_what_is_right_at_once_is_not_encoded_again() -> None:
    ladder = ecq_ladder()
    decision, _ = settled(
        fitting(Allocate(budget=60_000), ladder),
        ladder,
        lambda name, codec: int(NUMEL[name] * bits_of(codec) / 8),
    )
    assert decision.round == 0


def test_a_correction_changes_one_small_weight_where_that_will_do() -> None:
    ladder = ecq_ladder()
    fit = fitting(Allocate(budget=60_000), ladder)
    first = fit.first(FILES)
    sizes = {name: int(choice.bits * NUMEL[name] / 8) for name, choice in first.choices.items()}
    sizes["large"] += 600  # 1 % of the budget: 6 % of the middle weight, half of the small one
    following = fit.corrected(first, sizes, FILES)
    changed = [name for name in NUMEL if following.choices[name] != first.choices[name]]
    assert changed == ["middle"]
    assert following.choices["middle"].bits < first.choices["middle"].bits


@pytest.mark.parametrize("budget", [40_000, 60_000, 150_000])
@pytest.mark.parametrize("off", [0.9, 1.0, 1.02, 1.1])
def test_rates_in_steps_are_never_over(budget: int, off: float) -> None:
    ladder = uniform_ladder()
    fit = fitting(Allocate(budget=budget), ladder)
    _, sizes = settled(fit, ladder, lambda name, codec: int(off * NUMEL[name] * bits_of(codec) / 8))
    assert whole(sizes) <= budget


def test_a_budget_larger_than_all_there_is_ends_at_the_top() -> None:
    ladder = ecq_ladder()
    _, sizes = settled(
        fitting(Allocate(budget="1MB"), ladder),
        ladder,
        lambda name, codec: int(NUMEL[name] * bits_of(codec) / 8),
    )
    assert sizes == {name: 2 * numel for name, numel in NUMEL.items()}


def test_bits_per_weight_leave_files_out() -> None:
    ladder = ecq_ladder()
    fit = fitting(Allocate(bits_per_weight=2.0), ladder)
    _, sizes = settled(fit, ladder, lambda name, codec: int(1.01 * NUMEL[name] * bits_of(codec) / 8))
    assert LEAST * 2.0 <= 8 * sum(sizes.values()) / sum(NUMEL.values()) <= 2.0


def test_a_loss_asks_for_no_correction_and_is_foreseen() -> None:
    ladder = ecq_ladder()
    fit = fitting(Allocate(max_loss=0.05), ladder)
    first = fit.first(FILES)
    assert first.facts["predicted_loss"] == pytest.approx(0.05, rel=0.01)
    assert fit.corrected(first, dict.fromkeys(NUMEL, 10**9), FILES).final


def test_an_unreachable_budget_is_told_before_anything_is_encoded() -> None:
    fit = fitting(Allocate(budget="15kB"), ecq_ladder())
    # 210,000 weights at half a bit are 13,125 bytes
    with pytest.raises(
        ValueError,
        match=r"15,000 bytes cannot be met: the least possible is 18,125 bytes, of which large 10,000",
    ):
        fit.first(FILES)


def test_a_budget_that_only_real_bytes_prove_unreachable_is_told_too() -> None:
    ladder = uniform_ladder()
    fit = fitting(Allocate(budget=32_000), ladder)  # 26,250 bytes at one bit, and 5,000 of files
    with pytest.raises(ValueError, match="cannot be met: the least possible is"):
        settled(fit, ladder, lambda name, codec: int(1.2 * NUMEL[name] * bits_of(codec) / 8))


def test_without_any_effect_the_metric_s_units_count() -> None:
    ladder = ecq_ladder()
    silent = fitting(Allocate(budget=60_000), ladder, loss=0.0)
    assert silent.first(FILES).facts["slopes_measured"] is False
    assert silent.first(FILES).facts["predicted_loss"] is None
    assert silent.first(FILES).choices["small"].slope is None
    in_nats = fitting(Allocate(budget=60_000), ladder, loss=0.0, unit=0.5).first(FILES)
    assert in_nats.choices["small"].slope == 0.5
    with pytest.raises(ValueError, match="allocate.max_loss cannot be met: the effect of no weight"):
        fitting(Allocate(max_loss=0.05), ladder, loss=0.0)


def test_a_manifest_that_grows_with_a_mixture_falls_back_to_one_kind() -> None:
    """A mixture takes 3 kB more beside the weights than all weights of one kind do."""
    ladder = uniform_ladder()
    fit = fitting(Allocate(budget=33_000), ladder)  # 26,250 bytes at one bit, and 5,000 of files
    decision = fit.first(FILES)
    for _ in range(10):
        codecs = decision.codecs(dict.fromkeys(NUMEL, ladder))
        sizes = {name: int(NUMEL[name] * bits_of(codec) / 8) for name, codec in codecs.items()}
        files = {**FILES, "layouts": 3000 * (len(set(codecs.values())) - 1)}
        decision = fit.corrected(decision, sizes, files)
        if decision.final:
            break
    assert decision.final
    assert sum(sizes.values()) + sum(files.values()) <= 33_000
    assert set(codecs.values()) == {UniformCodec(bits=1)}


def test_a_better_estimate_counts_unless_it_refuses() -> None:
    fit = fitting(Allocate(budget=60_000), ecq_ladder())
    first = fit.first(FILES)
    again = fit.again(first, {"files": 6000})
    assert sum(choice.bits * NUMEL[name] for name, choice in again.choices.items()) < sum(
        choice.bits * NUMEL[name] for name, choice in first.choices.items()
    )
    assert fit.again(first, {"files": 59_000}) == first


def test_what_grew_most_is_not_refined() -> None:
    def entry(size: int) -> Encoded:
        return Encoded("ecq", (10, 10), "float32", {"stream": torch.zeros(size, dtype=torch.uint8)})

    before = {"a": entry(100), "b": entry(100), "c": entry(100)}
    after = {"a": entry(104), "b": entry(120), "c": entry(90)}
    kept, undone = without_growth(before, after, 15)
    assert undone == ["b"]
    assert {name: one.num_bytes for name, one in kept.items()} == {"a": 104, "b": 100, "c": 90}
    assert without_growth(before, after, 0) == (after, [])
    assert without_growth(before, after, 1000)[1] == ["b", "a"]  # what shrank stays refined
