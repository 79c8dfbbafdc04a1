"""Pictures are kept up to a number of bytes, the least recently used dropped."""

import pickle

import torch
from torch import Tensor

from datamodules.images import PictureCache


def picture(number: int) -> Tensor:
    return torch.full((3, 2, 2), number, dtype=torch.uint8)  # 12 bytes


def ask(cache: PictureCache, *keys: int) -> list[int]:
    """Ask for pictures; gives those that had to be made."""
    made = []

    def make(key: int) -> Tensor:
        made.append(key)
        return picture(key)

    for key in keys:
        assert torch.equal(cache.get(key, lambda key=key: make(key)), picture(key))  # type: ignore[misc]
    return made


def test_the_least_recently_used_is_dropped() -> None:
    cache = PictureCache(limit=36)
    assert ask(cache, 1, 2, 3, 1, 4) == [1, 2, 3, 4]  # 4 takes the place of 2, since 1 was asked for again
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (1, 4, 36, 3)
    assert ask(cache, 1, 3, 4) == []
    assert ask(cache, 2) == [2]


def test_a_limit_is_never_exceeded() -> None:
    cache = PictureCache(limit=35)  # two pictures and most of a third
    ask(cache, *range(10))
    assert cache.bytes == 24
    cache = PictureCache(limit=11)
    assert ask(cache, 1, 1) == [1, 1]
    assert (cache.bytes, cache.hits) == (0, 0)


def test_clearing_forgets_counts_too() -> None:
    cache = PictureCache(limit=100)
    ask(cache, 1, 1)
    cache.clear()
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (0, 0, 0, 0)
    assert ask(cache, 1) == [1]


def test_a_spawned_worker_starts_with_an_empty_one() -> None:
    cache = PictureCache(limit=100)
    ask(cache, 1)
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.limit, copy.bytes, len(copy)) == (100, 0, 0)
