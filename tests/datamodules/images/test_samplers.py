"""Orders of pictures: functions of seed and epoch, each class equally often, like lengths in a batch."""

from collections import Counter

import numpy as np
import pytest
from torch.utils.data import BatchSampler

from datamodules.images import BalancedSampler, BucketedSampler, RankOrder
from datamodules.loader import EpochSampler

LABELS = [0] * 50 + [1] * 7 + [2] * 3 + [5] * 1  # 61 pictures, and classes without any between


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_balanced_gives_each_class_equally_often() -> None:
    sampler = BalancedSampler(LABELS, seed=0)
    for epoch in range(5):
        indices = order(sampler, epoch)
        assert len(indices) == len(sampler) == 61
        counts = Counter(LABELS[index] for index in indices)
        assert sorted(counts.values()) == [15, 15, 15, 16]  # 61 = 4 * 15 + 1


def test_balanced_repeats_a_picture_only_after_all_others_of_its_class() -> None:
    counts = Counter(order(BalancedSampler(LABELS, seed=0), 0))
    for label in set(LABELS):
        times = [counts[index] for index, each in enumerate(LABELS) if each == label]
        assert max(times) - min(times) <= 1


def test_balanced_sees_all_of_a_large_class_over_epochs_and_no_class_always_more() -> None:
    sampler = BalancedSampler(LABELS, seed=0)
    indices = [index for epoch in range(40) for index in order(sampler, epoch)]
    assert set(indices) == set(range(61))
    counts = Counter(LABELS[index] for index in indices)
    assert all(600 < count < 640 for count in counts.values())  # 600 and a share of the 40 that are over


def test_balanced_needs_pictures() -> None:
    with pytest.raises(ValueError, match="needs pictures with classes, got none"):
        BalancedSampler([], seed=0)


LENGTHS = np.random.default_rng(0).integers(5, 30, 103)


def bucketed(batch_size: int, count: int = 103) -> BucketedSampler:
    # lengths differ from epoch to epoch, as those of chosen captions do
    return BucketedSampler(lambda epoch: np.roll(LENGTHS, epoch)[:count], count, batch_size, seed=0)


@pytest.mark.parametrize("count", [103, 100, 4])
def test_bucketed_gives_every_picture_once_with_like_lengths_in_a_batch(count: int) -> None:
    for epoch in (0, 3):
        lengths = np.roll(LENGTHS, epoch)[:count]
        sampler = bucketed(10, count)
        indices = order(sampler, epoch)
        assert sorted(indices) == list(range(count))
        batches = [lengths[indices[start : start + 10]] for start in range(0, count, 10)]
        spans = [(int(batch.min()), int(batch.max())) for batch in batches]
        for (_, high), (low, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
            assert high <= low, "lengths of batches do not overlap"


def test_bucketed_shuffles_batches_and_who_is_in_them() -> None:
    sampler = bucketed(10)
    first = order(sampler, 0)
    means = [LENGTHS[first[start : start + 10]].mean() for start in range(0, 100, 10)]
    assert means != sorted(means)
    constant = BucketedSampler(lambda epoch: LENGTHS, 103, 10, seed=0)
    batches = [
        {frozenset(order(constant, epoch)[start : start + 10]) for start in range(0, 100, 10)}
        for epoch in (0, 1)
    ]
    assert len(batches[0] & batches[1]) < 3


SAMPLERS = {
    "shuffled": lambda seed: EpochSampler(range(61), seed),
    "balanced": lambda seed: BalancedSampler(LABELS, seed),
    "bucketed": lambda seed: BucketedSampler(lambda epoch: LENGTHS[:61], 61, 8, seed),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_order_is_a_function_of_seed_and_epoch(name: str) -> None:
    make = SAMPLERS[name]
    sampler = make(4)
    orders = [order(sampler, epoch) for epoch in (0, 1, 2)]
    assert orders[0] != orders[1] != orders[2]
    assert order(make(4), 1) == orders[1]
    assert order(make(5), 1) != orders[1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_epoch_travels_with_each_index(name: str) -> None:
    sampler = RankOrder(SAMPLERS[name](4))
    sampler.set_epoch(7)
    pairs = list(sampler)
    assert sampler.epoch == 7
    assert len(pairs) == len(sampler) == 61
    assert {epoch for epoch, _ in pairs} == {7}
    assert [index for _, index in pairs] == order(SAMPLERS[name](4), 7)


@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_get_an_order_in_turn(name: str) -> None:
    parts = []
    for rank in range(2):
        sampler = RankOrder(SAMPLERS[name](4), rank, 2)
        sampler.set_epoch(3)
        parts.append([index for _, index in sampler])
        assert len(sampler) == 31
    whole = order(SAMPLERS[name](4), 3)
    assert parts == [
        whole[0::2],
        [*whole[1::2], whole[0]],
    ]  # 61: the first comes again for both to have as many


def test_bucketed_batches_of_each_rank_have_like_lengths() -> None:
    # batches of 5 on two ranks: groups of 10
    spans = []
    for rank in range(2):
        sampler = RankOrder(bucketed(10, 100), rank, 2)
        for batch in BatchSampler(sampler, 5, drop_last=False):
            values = LENGTHS[[index for _, index in batch]]
            spans.append(int(values.max() - values.min()))
    widest = int(LENGTHS.max() - LENGTHS.min())
    assert max(spans) <= 6 < widest  # 100 lengths over 25 values: ten neighbours span about three
