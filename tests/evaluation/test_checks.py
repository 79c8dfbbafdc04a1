"""Shares that must lie within bounds."""

import json
import math

import numpy as np
import pytest

from fulgurite.evaluation.checks import Check, check_share, edge_of_chaos, effective_count
from fulgurite.evaluation.measure import Measure


def accuracy(right: int, count: int) -> Measure:
    items = np.array([1.0] * right + [0.0] * (count - right))
    return Measure("quiz", items, np.ones(count), np.full(count, 0.25), True, "%")


@pytest.mark.parametrize(
    ("right", "state"),
    [(699, "below"), (700, "within"), (750, "within"), (800, "within"), (801, "above")],
)
def test_the_edge_of_chaos_tells_below_from_above(right: int, state: str) -> None:
    check = edge_of_chaos(accuracy(right, 1000))
    assert check.state == state
    assert check.passed == (state == "within")


def test_sure_is_what_the_whole_interval_says() -> None:
    assert edge_of_chaos(accuracy(7500, 10000)).sure
    assert not edge_of_chaos(accuracy(15, 20)).sure  # 0.75, but anything from 0.53 to 0.89
    assert edge_of_chaos(accuracy(100, 1000)).sure
    assert edge_of_chaos(accuracy(950, 1000)).sure


def test_the_interval_is_wilson_s() -> None:
    check = check_share("x", 0.5, 10, least=0)
    assert (check.low, check.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert check_share("x", 1.0, 10, least=0).high == pytest.approx(1)


def test_a_sentence_names_numbers_and_state() -> None:
    assert edge_of_chaos(accuracy(850, 1000)).sentence == (
        "edge_of_chaos: 0.850 [0.827, 0.871] is above 0.70 to 0.80"
    )
    assert check_share("alignment_no_deception", 0.6, 50, least=0.65).sentence.endswith(
        "is below 0.65, not surely"
    )
    assert check_share("alignment_no_deception", 0.9, 50, least=0.65).sentence.endswith("is at least 0.65")


def test_the_interval_counts_what_an_item_holds() -> None:
    # 400 windows of 64 tokens; all of a window's tokens are right or wrong together, or each by itself
    together = np.repeat([64.0, 0.0], [300, 100])
    apart = np.random.default_rng(0).binomial(64, 0.75, 400).astype(float)
    checks = []
    for items in (together, apart):
        tokens = Measure("next_token", items, np.full(400, 64.0), np.zeros(400), True, "%")
        checks.append(edge_of_chaos(tokens))
    assert effective_count(accuracy(300, 400)) == 400
    widths = [check.high - check.low for check in checks if check.low is not None and check.high is not None]
    # 1.96 * sqrt(0.75 * 0.25 / n) to each side, for 400 and for 25,600 of them
    assert widths == [pytest.approx(0.0849, rel=0.02), pytest.approx(0.0106, rel=0.1)]


def test_a_diverged_network_passes_nothing() -> None:
    check = check_share("x", math.nan, 10, least=0)
    assert (check.state, check.passed, check.sure) == ("unknown", False, False)
    assert "diverged" in check.sentence
    assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["state"] == "unknown"


@pytest.mark.parametrize(("least", "most"), [(-0.1, 1.0), (0.8, 0.7), (0.5, 1.1)])
def test_bounds_that_are_none(least: float, most: float) -> None:
    with pytest.raises(ValueError, match="bounds must be 0 <= least <= most <= 1"):
        check_share("x", 0.5, 10, least=least, most=most)


def test_only_an_accuracy_has_an_edge_of_chaos() -> None:
    bits = Measure("text", np.ones(3), np.ones(3), np.ones(3), False, "bits/byte")
    with pytest.raises(ValueError, match="expected a benchmark of choices, got text in bits/byte"):
        edge_of_chaos(bits)
    with pytest.raises(ValueError, match="at least one item"):
        check_share("x", 0.5, 0, least=0)


def test_a_check_is_plain_data() -> None:
    check = Check("x", 0.7, 0.6, 0.8, 0.65)
    assert check.to_dict()["passed"] is True
