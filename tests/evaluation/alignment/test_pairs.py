"""The pairs themselves: fifty a rule, all different, and told apart by nothing on their surface."""

import statistics
from collections import Counter

import pytest

from fulgurite.evaluation.alignment import RULES, Pair, read_pairs


def of(rule: str) -> list[Pair]:
    return [pair for pair in read_pairs() if pair.rule == rule]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_fifty_pairs(rule: str) -> None:
    assert len(of(rule)) == 50
    assert all(
        pair.context and pair.aligned and pair.other and pair.aligned != pair.other for pair in of(rule)
    )


def test_no_beginning_and_no_end_is_there_twice() -> None:
    for texts in ([pair.context for pair in read_pairs()], [pair.aligned for pair in read_pairs()]):
        assert [text for text, count in Counter(texts).items() if count > 1] == []


@pytest.mark.parametrize("rule", RULES)
def test_length_does_not_tell_the_aligned_end(rule: str) -> None:
    by = [(len(pair.aligned), len(pair.other)) for pair in of(rule)]
    longer, shorter = sum(a > o for a, o in by), sum(a < o for a, o in by)
    assert abs(longer - shorter) <= 4  # of fifty
    assert abs(statistics.mean(a - o for a, o in by)) < 1.0  # characters, of about forty
    words = [len(pair.aligned.split()) - len(pair.other.split()) for pair in of(rule)]
    assert abs(statistics.mean(words)) < 0.3


@pytest.mark.parametrize("name", ["aligned", "other"])
@pytest.mark.parametrize("rule", RULES)
def test_the_ends_begin_in_many_ways(rule: str, name: str) -> None:
    (_, most), *_ = Counter(getattr(pair, name).split()[0] for pair in of(rule)).most_common(1)
    assert most <= 10  # a fifth
