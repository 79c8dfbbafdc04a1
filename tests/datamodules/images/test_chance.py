"""Numbers are functions of seed, epoch, index and use, and look like chance."""

import numpy as np

from datamodules.images import chance


def test_a_number_does_not_depend_on_its_neighbours() -> None:
    whole = chance.draw(3, [1] * 100, range(100), chance.FLIP)
    part = chance.draw(3, [1, 1], [7, 50], chance.FLIP)
    assert part.tolist() == whole[[7, 50]].tolist()


def test_each_argument_changes_the_number() -> None:
    cases = [
        (seed, epoch, index, use)
        for seed in (-1, 0, 1)
        for epoch in (0, 1)
        for index in (0, 1, 2**40)
        for use in (0, 1)
    ]
    numbers = {int(chance.draw(seed, [epoch], [index], use)[0]) for seed, epoch, index, use in cases}
    assert len(numbers) == len(cases)


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = chance.draw(0, [0] * 60_000, range(60_000), chance.CAPTION)
    counts = np.bincount(chance.below(numbers, 6), minlength=6)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)  # five standard deviations
    shares = numbers / 2.0**64
    following = chance.draw(0, [1] * 60_000, range(60_000), chance.CAPTION) / 2.0**64
    for other in (np.roll(shares, 1), following):
        assert abs(np.corrcoef(shares, other)[0, 1]) < 5 / np.sqrt(60_000)


def test_a_limit_for_each_is_kept() -> None:
    limits = np.array([1, 2, 5])
    numbers = chance.draw(0, [0] * 3000, range(3000), chance.CAPTION).reshape(1000, 3)
    values = chance.below(numbers, limits)
    assert values.min() == 0
    assert values.max(0).tolist() == [0, 1, 4]
