"""The gate: what passes, what does not, and what it says."""

import json
import math

import numpy as np
import pytest

from fulgurite.evaluation import Gate, Measure, Verdict

CHANCE = 3.0


def text(items: np.ndarray, name: str = "bits_per_byte") -> Measure:
    ones = np.ones(len(items))
    return Measure(name, items, ones, CHANCE * ones, False, "bits/byte")


def quiz(items: np.ndarray, name: str = "quiz") -> Measure:
    ones = np.ones(len(items))
    return Measure(name, items, ones, 0.25 * ones, True, "%")


def windows(n: int = 100) -> np.ndarray:
    return np.random.default_rng(0).gamma(16, 1 / 16, n)  # mean 1, deviation 0.25


def answers(share: float, n: int = 400, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def keeping(measure: Measure, share: float) -> Measure:
    """A network that retains ``share`` of the margin of each item, hence in each resample."""
    items = measure.chance_items + share * (measure.items - measure.chance_items)
    return Measure(
        measure.name, items, measure.weights, measure.chance_items, measure.higher_is_better, measure.unit
    )


def decide(gate: Gate, reference: Measure, candidate: Measure, stage_index: int = 0) -> Verdict:
    return gate.decide([reference], [reference], [candidate], stage_index)


def test_an_identical_network_keeps_exactly_everything() -> None:
    both = [text(windows()), quiz(answers(0.6))]
    verdict = Gate(stage_retention=(1.0,), cumulative=1.0, floor=1.0).decide(both, both, both, 0)
    assert verdict.accepted
    assert (verdict.retention, verdict.retention_low) == (1, 1)
    assert (verdict.cumulative, verdict.cumulative_low) == (1, 1)
    assert verdict.severity == "none"
    assert verdict.reason == "retained 100.0 % (at least 100.0 %), needs 100 %"
    assert [(m.low, m.high, m.raw_ratio, m.informative) for m in verdict.per_measure] == [(1, 1, 1, True)] * 2


def test_a_planted_drop_is_rejected_with_its_numbers() -> None:
    reference = text(windows())
    noise = 0.05 * np.random.default_rng(2).standard_normal(100)
    margin = CHANCE - reference.value
    verdict = decide(Gate(), reference, text(reference.items + 0.03 * margin + noise))
    assert not verdict.accepted
    # planted 3 % of the margin, with noise of 0.05 / 2 / sqrt(100) = 0.25 %: three deviations
    assert verdict.retention == pytest.approx(0.97, abs=0.0075)
    assert verdict.retention_low is not None
    assert verdict.retention_low < verdict.retention
    assert verdict.severity == "mild"  # 0.96 would be twice the allowed loss
    shown = f"retained {100 * verdict.retention:.1f} % (at least "
    assert verdict.reason.startswith(shown)
    assert verdict.reason.endswith("needs 98 %")


def test_a_point_above_the_threshold_is_not_enough() -> None:
    reference = text(windows())
    noise = 0.5 * np.random.default_rng(3).standard_normal(100)
    noise -= noise.mean()
    verdict = decide(Gate(), reference, text(reference.items + 0.02 + noise))
    # 1 % of the margin lost, noise of 0.5 / 2 / sqrt(100) = 2.5 %: not certain at 98 %
    assert verdict.retention == pytest.approx(0.99, abs=0.001)
    assert not verdict.accepted
    assert verdict.severity == "mild"


@pytest.mark.parametrize(
    ("share", "severity"),
    [(0.985, "none"), (0.975, "mild"), (0.965, "mild"), (0.955, "severe"), (0.5, "severe")],
)
def test_severe_is_more_than_twice_the_allowed_loss(share: float, severity: str) -> None:
    reference = text(windows())
    assert decide(Gate(), reference, keeping(reference, share)).severity == severity


def test_later_stages_use_the_last_threshold_and_needed_overrides_it() -> None:
    reference = text(windows())
    candidate = keeping(reference, 0.93)
    assert [decide(Gate(), reference, candidate, stage).needed for stage in range(5)] == [
        0.98,
        0.95,
        0.90,
        0.90,
        0.90,
    ]
    assert [decide(Gate(), reference, candidate, stage).accepted for stage in (1, 2, 4)] == [
        False,
        True,
        True,
    ]
    overridden = Gate().decide([reference], [reference], [candidate], 0, needed=0.92)
    assert overridden.accepted
    assert overridden.needed == 0.92


def test_many_small_drops_are_stopped_by_the_cumulative_threshold() -> None:
    gate = Gate(stage_retention=(0.95,))
    reference = previous = text(windows())
    accepted = []
    for stage in range(5):
        candidate = keeping(previous, 0.96)
        verdict = gate.decide([reference], [previous], [candidate], stage)
        assert verdict.retention_low == pytest.approx(0.96)  # each stage by itself is good enough
        assert verdict.cumulative == pytest.approx(0.96 ** (stage + 1))
        accepted.append(verdict.accepted)
        previous = candidate
    # 0.96**4 = 0.849 is above 0.84, 0.96**5 = 0.815 is below it
    assert accepted == [True, True, True, True, False]
    assert verdict.severity == "mild"
    assert verdict.reason == (
        "retained 96.0 % (at least 96.0 %), needs 95 %; of the reference 81.5 % (at least 81.5 %), needs 84 %"
    )


def test_one_measure_under_the_floor_rejects_a_good_mean() -> None:
    reference = [text(windows(), name) for name in "abcd"]
    candidate = [keeping(m, share) for m, share in zip(reference, (1, 1, 1, 0.75), strict=True)]
    verdict = Gate(stage_retention=(0.9,)).decide(reference, reference, candidate, 0)
    assert verdict.retention == pytest.approx(3.75 / 4)  # above 0.9 and 0.84
    assert not verdict.accepted
    assert verdict.severity == "severe"
    assert verdict.reason.endswith("d keeps 75.0 % (at least 75.0 %), no measure may be under 80 %")


def test_a_floor_missed_only_by_the_bound_is_mild() -> None:
    reference = quiz(answers(0.6))
    flipped = reference.items.copy()
    flipped[np.flatnonzero(flipped)[:22]] = 0  # 22 of about 140 above chance: 0.84 kept, +- 0.03
    verdict = decide(Gate(stage_retention=(0.5,), cumulative=0.5), reference, quiz(flipped))
    (measure,) = verdict.per_measure
    assert measure.retention is not None
    assert measure.low is not None
    assert measure.low < 0.8 < measure.retention
    assert (verdict.accepted, verdict.severity) == (False, "mild")


def test_a_measure_at_chance_is_reported_and_decides_nothing() -> None:
    reference = [text(windows()), quiz(answers(0.25))]
    fallen = [reference[0], quiz(np.zeros(400))]  # the candidate answers nothing
    verdict = Gate().decide(reference, reference, fallen, 0)
    assert verdict.accepted
    assert verdict.retention == 1
    at_chance = verdict.per_measure[1]
    assert (at_chance.informative, at_chance.retention, at_chance.low, at_chance.high) == (False,) + (
        None,
    ) * 3
    assert (at_chance.value, at_chance.raw_ratio) == (0, 0)
    # nor can it pass anything: a rise on it does not make up for a loss elsewhere
    risen = [keeping(reference[0], 0.9), quiz(np.ones(400))]
    assert not Gate().decide(reference, reference, risen, 0).accepted


def test_without_an_informative_measure_nothing_is_accepted() -> None:
    reference = quiz(answers(0.25))
    verdict = decide(Gate(), reference, reference)
    assert (verdict.accepted, verdict.retention, verdict.severity) == (False, None, "none")
    assert verdict.undecided
    assert verdict.reason == "no measure can decide: the reference itself is at chance on quiz"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_network_is_rejected_without_an_exception(bad: float) -> None:
    reference = [text(windows()), quiz(answers(0.6))]
    items = windows()
    items[[3, 7]] = bad
    verdict = Gate().decide(reference, reference, [text(items), reference[1]], 0)
    assert (verdict.accepted, verdict.severity, verdict.diverged) == (False, "severe", True)
    assert verdict.reason == "the network diverged: bits_per_byte is not finite on 2 of 100 items"
    assert verdict.per_measure[0].value is None
    assert verdict.per_measure[1].value == reference[1].value


def test_a_mean_over_the_same_windows_is_no_surer_than_one_measure() -> None:
    reference = text(windows())
    candidate = text(reference.items + 0.02 + 0.2 * np.random.default_rng(4).standard_normal(100))
    once = decide(Gate(), reference, candidate)
    doubled = Gate().decide([reference] * 2, [reference] * 2, [candidate] * 2, 0)
    # drawn apart, two copies would average their noise out and raise the bound
    assert doubled.retention_low == pytest.approx(once.retention_low)


def test_verdicts_are_reproducible_and_survive_json() -> None:
    reference = [text(windows()), quiz(answers(0.25)), quiz(answers(0.7), "other")]
    items = windows()
    items[0] = math.nan
    for first in (keeping(reference[0], 0.97), text(items)):
        candidate = [first, *reference[1:]]
        verdict = Gate().decide(reference, reference, candidate, 1)
        assert verdict == Gate().decide(reference, reference, candidate, 1)
        assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False))) == verdict


def test_unpaired_measures_are_refused() -> None:
    reference = text(windows())
    heavier = Measure("bits_per_byte", windows(), np.full(100, 2.0), np.full(100, 6.0), False, "bits/byte")
    with pytest.raises(ValueError, match="must have the reference's 100 items, got 99"):
        decide(Gate(), reference, text(windows()[:99]))
    with pytest.raises(ValueError, match="must have the reference's weights, got 100 that differ"):
        decide(Gate(), reference, heavier)
    with pytest.raises(ValueError, match="paired by name"):
        decide(Gate(), reference, quiz(answers(0.5, 100)))
    with pytest.raises(ValueError, match="the same measures, at least one, got 1, 2 and 1"):
        Gate().decide([reference], [reference] * 2, [reference], 0)
    with pytest.raises(ValueError, match="items of previous must be finite, got 1"):
        Gate().decide([reference], [text(np.r_[math.nan, windows()[1:]])], [reference], 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage_retention": ()}, "at least one entry"),
        ({"stage_retention": (0.98, 95)}, r"stage_retention must be in \(0, 1\], got 95"),
        ({"cumulative": 0}, r"cumulative must be in \(0, 1\], got 0"),
        ({"floor": -0.1}, r"floor must be in \(0, 1\], got -0.1"),
        ({"confidence": 1.0}, r"confidence must be in \(0.5, 1\), got 1.0"),
        ({"resamples": 99}, "resamples must be at least 100, got 99"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate(**settings)


def test_a_bound_that_misses_by_a_hair_does_not_read_as_a_pass() -> None:
    reference = text(windows())
    verdict = decide(Gate(), reference, keeping(reference, 0.97996))
    assert verdict.reason == "retained 98.0 % (at least 97.9 %), needs 98 %"


def rated(noise: float, n: int = 300) -> Measure:
    """Rank correlation with known scores of a network that adds noise to what the reference says."""
    generator = np.random.default_rng(6)
    scores = generator.normal(size=n)
    items = scores + 0.3 * generator.standard_normal(n) + noise * generator.standard_normal(n)
    return Measure("similarity", items, np.ones(n), np.zeros(n), True, "", "spearman", scores)


def test_a_rank_correlation_is_judged_as_any_measure() -> None:
    reference = rated(0.0)
    same = decide(Gate(stage_retention=(1.0,), cumulative=1.0, floor=1.0), reference, reference)
    assert (same.accepted, same.retention, same.retention_low) == (True, 1, 1)
    near, far = decide(Gate(), reference, rated(0.05)), decide(Gate(), reference, rated(1.0))
    # noise of 0.05 beside 0.3 lowers a correlation of 0.96 by 0.001
    assert (near.accepted, near.severity) == (True, "none")
    assert near.retention == pytest.approx(rated(0.05).value / reference.value)
    # noise of 1.0 lowers it to about 0.69
    assert (far.accepted, far.severity) == (False, "severe")
    lost = decide(Gate(), reference, Measure("similarity", *collapsed(reference)))
    assert lost.cumulative == pytest.approx(0)


def collapsed(measure: Measure) -> tuple:
    """What a network makes of the items that says the same of all."""
    same = np.full(measure.items.size, 0.7)
    arrays = (same, measure.weights, measure.chance_items)
    return (*arrays, True, "", "spearman", measure.targets)


def test_a_small_benchmark_fails_the_floor_only_where_its_loss_is_real() -> None:
    large, small = quiz(answers(0.7, 20_000), "large"), quiz(answers(0.5, 60, seed=2), "small")
    lost = small.items.copy()
    right = np.flatnonzero(lost)
    lost[right[:4]] = 0  # of about 15 above chance: three quarters are kept, but 4 of 60 is within luck
    both = [large, small]
    found = Gate().decide(both, both, [large, quiz(lost, "small")], 0)
    entry = found.per_measure[1]
    assert entry.retention is not None
    assert entry.retention < 0.8
    assert (entry.test, entry.floor_by) == ("mcnemar", "test")
    # all of 4 changes for the worse: 1/16 less half of it, and twice that by Holm; 2.5 % would be real
    assert (entry.p, entry.p_holm) == (pytest.approx(1 / 32), pytest.approx(1 / 16))
    assert found.accepted
    lost[right[:12]] = 0
    worse = Gate().decide(both, both, [large, quiz(lost, "small")], 0)
    assert (worse.accepted, worse.severity) == (False, "severe")
    assert "the loss is real: McNemar p 0.00024), no measure may be under 80 %" in worse.reason


def test_a_large_benchmark_is_held_to_the_floor_by_its_bound() -> None:
    found = decide(Gate(), quiz(answers(0.7, 20_000)), quiz(answers(0.7, 20_000)))
    assert found.per_measure[0].floor_by == "bound"


def test_verdicts_of_earlier_versions_are_read() -> None:
    record = decide(Gate(), text(windows()), text(windows())).to_dict()
    for key in ("retention_high", "cumulative_high"):
        del record[key]
    for key in ("items", "weight", "test", "p", "p_holm", "floor_by"):
        del record["per_measure"][0][key]
    assert Verdict.from_dict(record).accepted
