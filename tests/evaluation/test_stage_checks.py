"""Checks of behaviour beside a gate: what turns a stage down, and what is a remark."""

import json

import numpy as np
import pytest

from fulgurite.evaluation import Gate, Measure, Verdict, diagnose
from fulgurite.evaluation.alignment import PREFIX, RULES
from fulgurite.evaluation.stage_checks import CheckSettings, StageCheck, with_checks


def accuracy(name: str, share: float, count: int = 100) -> Measure:
    items = (np.arange(count) < round(share * count)).astype(float)
    return Measure(name, items, np.ones(count), np.full(count, 0.25), True, "%")


def aligned(*shares: float) -> list[Measure]:
    """One share for each rule, or for all of them."""
    each = shares if len(shares) > 1 else shares * len(RULES)
    return [accuracy(PREFIX + rule, share) for rule, share in zip(RULES, each, strict=True)]


def accepted() -> Verdict:
    measures = [accuracy("quiz", 0.75, 1000)]
    return Gate().decide(measures, measures, measures, 0)


def chaos(before: float, after: float, *, strict: bool = False) -> StageCheck:
    settings = CheckSettings(edge_of_chaos="quiz", strict=strict)
    (check,) = settings.judge([accuracy("quiz", before)], [accuracy("quiz", after)], last=False)
    return check


@pytest.mark.parametrize(
    ("before", "after", "rejects", "strictly"),
    [
        (0.75, 0.72, False, False),  # within before and after
        (0.75, 0.65, True, True),  # the stage has lost it
        (0.90, 0.65, True, True),  # the reference was too good, which a stage need not mend, and is not now
        (0.65, 0.60, False, True),  # the reference falls short itself
        (0.75, 0.85, False, True),  # nothing is lost
        (0.90, 0.90, False, True),
    ],
)
def test_a_stage_answers_for_what_it_has_lost(
    before: float, after: float, rejects: bool, strictly: bool
) -> None:
    assert chaos(before, after).rejects == rejects
    assert chaos(before, after, strict=True).rejects == strictly


def test_the_last_stage_needs_less_alignment() -> None:
    settings = CheckSettings(alignment=True)
    before, after = aligned(0.7), aligned(0.62)
    assert [check.rejects for check in settings.judge(before, after, last=False)] == [True] * 4
    assert [check.rejects for check in settings.judge(before, after, last=True)] == [False] * 4


def test_one_check_is_mild_and_several_are_severe() -> None:
    settings = CheckSettings(alignment=True)
    for shares, severity in (((0.6, 0.7, 0.7, 0.7), "mild"), ((0.6, 0.6, 0.7, 0.7), "severe")):
        found = with_checks(accepted(), settings.judge(aligned(0.7), aligned(*shares), last=False))
        assert (found.accepted, found.severity) == (False, severity)
        assert found.failed_checks == tuple(
            PREFIX + rule for rule, share in zip(RULES, shares, strict=True) if share < 0.65
        )
        diagnosis = diagnose(found, {})
        assert diagnosis.pattern == "check"
        assert all(name in diagnosis.sentence for name in found.failed_checks)


def test_too_good_is_nothing_to_mend() -> None:
    found = with_checks(accepted(), [chaos(0.75, 0.85, strict=True)])
    assert (found.accepted, found.severity) == (False, "none")
    assert found.reason.endswith("edge_of_chaos: 0.850 [0.767, 0.907] is above 0.70 to 0.80, not surely")


def test_scores_go_before_checks() -> None:
    reference = [accuracy("quiz", 0.75, 1000)]
    lost = Gate().decide(reference, reference, [accuracy("quiz", 0.5, 1000)], 0)
    found = with_checks(lost, [chaos(0.75, 0.5)])
    assert (found.severity, found.failed_checks) == (lost.severity, ())
    assert diagnose(found, {}).pattern == "core"
    assert "edge_of_chaos: 0.500" in found.reason


def test_nothing_changes_where_nothing_is_turned_down() -> None:
    verdict = accepted()
    assert with_checks(verdict, [chaos(0.65, 0.6), chaos(0.75, 0.85)]) is verdict


def test_what_turns_nothing_down_says_why() -> None:
    assert chaos(0.65, 0.6).sentence.endswith("; the reference has 0.650 itself")
    assert chaos(0.75, 0.85).sentence.endswith("; nothing is lost")
    assert chaos(0.75, 0.6).sentence.endswith("is below 0.70 to 0.80")


def test_what_the_reference_fails_is_known_before_the_first_stage() -> None:
    settings = CheckSettings(alignment=True)
    assert settings.foretold(aligned(0.7), stages=2) == []
    told = settings.foretold(aligned(0.5, 0.62, 0.7, 0.7), stages=2)
    assert [sentence.split(": ")[-1] for sentence in told] == [
        "it is reported, and turns down no stage",
        "it turns down no stage but the last, which needs less",
    ]
    assert len(settings.foretold(aligned(0.62), stages=1)) == 0, "the only stage is the last"
    chaotic = CheckSettings(edge_of_chaos="quiz")
    assert chaotic.foretold([accuracy("quiz", 0.9)], 1)[0].endswith(
        "the set is too easy to show a small loss"
    )
    strict = CheckSettings(edge_of_chaos="quiz", strict=True)
    assert strict.foretold([accuracy("quiz", 0.6)], 1)[0].endswith(
        "checks are strict, so a stage has to mend it"
    )


def test_a_network_that_diverged_fails() -> None:
    broken = accuracy("quiz", 0.75)
    broken = Measure("quiz", np.full(100, np.nan), broken.weights, broken.chance_items, True, "%")
    (check,) = CheckSettings(edge_of_chaos="quiz").judge([accuracy("quiz", 0.75)], [broken], last=True)
    assert check.rejects
    assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["state"] == "unknown"


def test_a_verdict_keeps_its_failed_checks() -> None:
    found = with_checks(accepted(), [chaos(0.75, 0.6)])
    assert Verdict.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    old = {key: value for key, value in accepted().to_dict().items() if key != "failed_checks"}
    assert Verdict.from_dict(old).failed_checks == (), "files from before there were checks are read"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "checks must ask for something"),
        (
            {"edge_of_chaos": "quiz", "edge_of_chaos_within": (0.8, 0.7)},
            "least <= most <= 1, got 0.8 and 0.7",
        ),
        (
            {"alignment": True, "alignment_least_last": 1.2},
            r"alignment_least_last must be in \[0, 1\], got 1.2",
        ),
    ],
)
def test_settings_that_are_none(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckSettings(**settings)  # type: ignore[arg-type]


def test_a_measure_that_is_not_there_is_named_with_those_that_are() -> None:
    some = [*aligned(0.7)[:3], accuracy("quiz", 0.7)]
    with pytest.raises(
        ValueError, match="needs the measures alignment_preserve_dignity: expected alignment among"
    ):
        CheckSettings(alignment=True).of(some, last=False)
    with pytest.raises(ValueError, match=r"must be one of the measures .*, quiz, got 'quizz'"):
        CheckSettings(edge_of_chaos="quizz").of(some, last=False)
    bits = Measure("text", np.ones(3), np.ones(3), np.ones(3), False, "bits/byte")
    with pytest.raises(ValueError, match="expected a benchmark of choices, got text in bits/byte"):
        CheckSettings(edge_of_chaos="text").of([bits], last=False)
