"""Is a loss real: McNemar's test by hand and by simulation, the bootstrap where items are not right or wrong."""

import numpy as np
import pytest
from scipy import stats

from fulgurite.evaluation import Measure
from fulgurite.evaluation.loss_test import loss_test, mcnemar
from fulgurite.evaluation.measure import is_binary


def quiz(items: np.ndarray) -> Measure:
    return Measure("quiz", items, np.ones(len(items)), np.full(len(items), 0.25), True, "%")


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 7), (9, 3), (300, 260)])
def test_mcnemar_is_the_mid_p_of_a_fair_coin(lost: int, gained: int) -> None:
    coin = stats.binom(lost + gained, 0.5)
    expected = 1.0 if lost + gained == 0 else coin.sf(lost) + 0.5 * coin.pmf(lost)
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_only_items_that_changed_count() -> None:
    before, after = np.tile([1.0, 0.0], 50), np.tile([1.0, 0.0], 50)
    after[[0, 2, 4]] = 0.0  # three lost
    after[1] = 1.0  # one gained
    found = loss_test(quiz(before), quiz(after))
    assert (found.kind, found.lost, found.gained) == ("mcnemar", 3, 1)
    # 3 of 4: pmf(4) + pmf(3) / 2 = 1/16 + 2/16
    assert found.p == pytest.approx(3 / 16)
    longer = loss_test(quiz(np.r_[before, np.ones(1000)]), quiz(np.r_[after, np.ones(1000)]))
    assert longer.p == found.p


def test_lower_is_better_is_turned_round() -> None:
    errors = Measure("errors", np.zeros(20), np.ones(20), np.ones(20), False, "")
    more = Measure("errors", np.r_[np.ones(8), np.zeros(12)], np.ones(20), np.ones(20), False, "")
    assert loss_test(errors, more).p < 0.01
    assert loss_test(more, errors).p > 0.99


def test_scores_that_are_no_answers_go_by_the_bootstrap() -> None:
    items = np.random.default_rng(0).gamma(16, 1 / 16, 200)
    text = Measure("bits_per_byte", items, np.ones(200), np.full(200, 3.0), False, "bits/byte")
    assert not is_binary(text)
    worse = Measure("bits_per_byte", items + 0.1, np.ones(200), np.full(200, 3.0), False, "bits/byte")
    assert loss_test(text, worse).kind == "bootstrap"
    assert loss_test(text, worse, resamples=999).p == pytest.approx(1 / 1000)  # no draw without a loss
    assert loss_test(text, text).p == 1


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_a_loss_of_nothing_is_found_real_no_more_often_than_the_level(level: float) -> None:
    generator = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        lost = generator.binomial(40, 0.5)  # 40 items change, each as likely for the worse
        found.append(mcnemar(lost, 40 - lost) <= level)
    # four standard errors of 2,000 runs
    assert np.mean(found) <= level + 4 * np.sqrt(level / 2000)


def test_counts_and_pairs_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 0, got lost=-1 and gained=2"):
        mcnemar(-1, 2)
    with pytest.raises(ValueError, match="must have the reference's 4 items, got 3"):
        loss_test(quiz(np.ones(4)), quiz(np.ones(3)))
