"""Settings of an allocation: limits, ladders, retries; decisions that survive a file."""

from pathlib import Path

import pytest

from callbacks.stages.allocating import Allocate, Choice, Decision
from fulgurite.codecs import EcqCodec, Float16Codec, UniformCodec


@pytest.mark.parametrize("limits", [{}, {"budget": "1MB", "max_loss": 0.1}])
def test_exactly_one_limit(limits: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match="allocate must have exactly one of budget, bits_per_weight, max_loss"
    ):
        Allocate(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "some"}, "allocate.budget must be bytes, .* got 'some'"),
        ({"bits_per_weight": 0.0}, "allocate.bits_per_weight must be above 0, got 0.0"),
        ({"max_loss": 0.1, "strategy": "uniform"}, "allocate.max_loss needs the strategy slope"),
        ({"budget": 10, "strategy": "fair"}, "allocate.strategy must be one of slope, .* got 'fair'"),
        ({"budget": 10, "probe_windows": 0}, "allocate.probe_windows must be above 0, got 0"),
        ({"budget": 10, "candidates": []}, "allocate.candidates must hold at least one codec"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Allocate(**settings)  # type: ignore[arg-type]


def test_the_ladder_is_the_codec_s_own_and_sixteen_bits() -> None:
    codec = UniformCodec(group_size=32)
    assert Allocate(budget=1).ladder(codec) == (*codec.candidates(), Float16Codec())


def test_of_a_codec_with_any_rate_every_second_rate_is_measured() -> None:
    rates = [
        step.rate for step in Allocate(budget=1).ladder(EcqCodec(states=8)) if isinstance(step, EcqCodec)
    ]
    known = [step.rate for step in EcqCodec().candidates() if isinstance(step, EcqCodec)]
    assert rates == [*known[:-1:2], known[-1]]


def test_given_candidates_are_taken_as_they_are() -> None:
    given = [UniformCodec(bits=3), UniformCodec(bits=5), UniformCodec(bits=3)]
    ladder = Allocate(budget=1, candidates=[*given]).ladder(Float16Codec())
    assert ladder == (UniformCodec(bits=3), UniformCodec(bits=5))


@pytest.mark.parametrize(
    ("allocate", "severe", "changed", "words"),
    [
        (Allocate(budget="0.4MB"), False, 440_000, "allocate.budget 400,000 -> 440,000 bytes"),
        (Allocate(budget="0.4MB"), True, 500_000, "allocate.budget 400,000 -> 500,000 bytes"),
        (Allocate(bits_per_weight=2.0), True, 2.5, "allocate.bits_per_weight 2 -> 2.5"),
        (Allocate(max_loss=0.04), False, 0.03, "allocate.max_loss 0.04 -> 0.03"),
    ],
)
def test_a_retry_takes_more_bytes_and_says_so(
    allocate: Allocate, severe: bool, changed: float, words: str
) -> None:
    after, said = allocate.relaxed(severe)
    assert said == words
    assert [getattr(after, name) for name in ("budget", "bits_per_weight", "max_loss")].count(None) == 2
    assert changed in (after.budget, after.bits_per_weight, pytest.approx(after.max_loss or 0))


def test_a_decision_survives_its_file(tmp_path: Path) -> None:
    ladders = {"a": (UniformCodec(bits=2), Float16Codec()), "b": (EcqCodec(rate=1.0), EcqCodec(rate=4.0))}
    rate = 8 * 12_345 / 54_321  # a fraction that has no short decimal
    choices = {"a": Choice(1, None, 16.0, None), "b": Choice(0, rate, rate, 0.25)}
    decision = Decision(choices, {"strategy": "slope"}, round=2)
    path = tmp_path / "allocation.json"
    assert Decision.load(path) is None
    decision.save(path)
    found = Decision.load(path)
    assert found == decision
    assert found.codecs(ladders) == {"a": Float16Codec(), "b": EcqCodec(rate=rate)}
