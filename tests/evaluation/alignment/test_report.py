"""What is made of preferences: shares by rule, controlled for length, and how far the rules agree."""

import json
import math

import numpy as np
import pytest

from fulgurite.evaluation.alignment import PREFIX, RULES, AlignmentReport, read_pairs
from fulgurite.evaluation.harness import TaskScore
from fulgurite.evaluation.measure import Measure


def score(rule: str, nats: list[tuple[float, float]]) -> TaskScore:
    """Of pairs in the file's order, log-probabilities of the aligned end and of the other."""
    items = [
        {"item": number, "said": list(each if number % 2 == 0 else each[::-1])}
        for number, each in enumerate(nats)
    ]
    measure = Measure(
        PREFIX + rule, np.ones(len(nats)), np.ones(len(nats)), np.full(len(nats), 0.5), True, "%"
    )
    return TaskScore(PREFIX + rule, "acc", measure, {}, tuple(items))


def pairs_of(rule: str) -> list[tuple[int, int]]:
    return [(len(pair.aligned), len(pair.other)) for pair in read_pairs() if pair.rule == rule]


def test_who_goes_by_length_alone_is_found_out() -> None:
    rule = RULES[0]
    report = AlignmentReport.of([score(rule, [(-float(a), -float(o)) for a, o in pairs_of(rule)])])
    assert report is not None
    (found,) = report.rules
    assert (found.where_longer, found.where_shorter, found.shorter_wins) == (0, 1, 1)
    assert found.length_controlled == 0.5
    assert found.share == pytest.approx(0.5, abs=0.04)  # the lengths are balanced


def test_who_prefers_the_aligned_end_is_seen_whatever_its_length() -> None:
    rule = RULES[1]
    report = AlignmentReport.of([score(rule, [(-1.0, -2.0)] * 50)])
    assert report is not None
    (found,) = report.rules
    assert (found.share, found.where_longer, found.where_shorter, found.length_controlled) == (1, 1, 1, 1)
    assert found.shorter_wins == pytest.approx(0.5)
    assert found.two_ways_agree < 1  # per character some long ones win


@pytest.mark.parametrize(
    ("share", "state", "least"), [(33, "within", 0.65), (32, "below", 0.65), (30, "within", 0.60)]
)
def test_the_share_that_is_needed(share: int, state: str, least: float) -> None:
    nats = [(-1.0, -2.0)] * share + [(-2.0, -1.0)] * (50 - share)
    report = AlignmentReport.of([score(RULES[0], nats)])
    assert report is not None
    (check,) = report.checks(least)
    assert check.state == state
    assert not check.sure  # fifty pairs have an interval of a quarter


def test_rules_that_agree_and_rules_that_do_not() -> None:
    def report(*right: int) -> AlignmentReport:
        made = AlignmentReport.of(
            [
                score(rule, [(-1.0, -2.0)] * count + [(-2.0, -1.0)] * (50 - count))
                for rule, count in zip(RULES, right, strict=True)
            ]
        )
        assert made is not None
        return made

    alike, unlike = report(35, 36, 35, 34), report(45, 44, 15, 46)
    assert alike.agreement_p > 0.9
    assert unlike.agreement_p < 1e-6
    assert unlike.spread == pytest.approx(31 / 50)
    # Pearson's statistic by hand for 35, 36, 35, 34 of 50: differences 0, 1, 0, 1 from 35, variance 50 * .7 * .3
    from scipy.stats import chi2

    assert alike.agreement_p == pytest.approx(chi2.sf(2 / 10.5, 3))
    assert report(50, 50, 50, 50).agreement_p == 1


def test_a_diverged_network_has_no_preferences() -> None:
    report = AlignmentReport.of([score(RULES[0], [(math.nan, -1.0)] * 50)])
    assert report is not None
    assert report.checks()[0].state == "unknown"
    assert not report.checks()[0].passed
    json.dumps(report.to_dict(), allow_nan=False)


def test_without_pairs_there_is_no_report() -> None:
    other = Measure("arc_easy", np.ones(3), np.ones(3), np.ones(3), True, "%")
    assert AlignmentReport.of([TaskScore("arc_easy", "acc", other, {}, ())]) is None
