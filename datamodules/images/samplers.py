r"""Orders of training pictures that are functions of seed and epoch.

    labels  -> BalancedSampler -> each class equally often -\
    lengths -> BucketedSampler -> like lengths in a batch  --> RankOrder -> (epoch, index) -> batches

They give single indices, not batches, so a loader goes on within an epoch as with any sampler. ``RankOrder`` deals
an order out to processes in turn; Lightning's own wrapper would shuffle it once more, and like lengths would part. The
epoch travels with each index, because workers that stay alive have a data set that nobody tells the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler
from typing_extensions import override

from datamodules.loader import EpochSampler


class _Order(Protocol):
    epoch: int

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...


class BalancedSampler(EpochSampler):
    """Each class equally often, as many pictures an epoch as there are.

    A class's pictures are gone through in a new order before one of them comes again. So of a large class an epoch
    sees a part, and those of a small one several times. Where the number of pictures is no multiple of the
    number of classes, chance decides which classes come once more.

    Args:
        labels: Class of each picture, ``[n]``; classes without pictures do not count.
        seed: Seed of the run.

    Raises:
        ValueError: If there are no pictures.
    """

    def __init__(self, labels: Sequence[int] | NDArray[np.int64], seed: int) -> None:
        values = np.asarray(labels, np.int64)
        if not len(values):
            raise ValueError("a balanced order needs pictures with classes, got none")
        super().__init__(values, seed)
        self._members = [np.flatnonzero(values == label) for label in np.unique(values)]

    @override
    def __iter__(self) -> Iterator[int]:
        chance = np.random.default_rng([self._seed, self.epoch])
        each, more = divmod(len(self), len(self._members))
        lucky = set(chance.permutation(len(self._members))[:more].tolist())
        chosen = []
        for place, members in enumerate(self._members):
            wanted = each + (place in lucky)
            rounds = -(-wanted // len(members))
            chosen.append(np.concatenate([chance.permutation(members) for _ in range(rounds)])[:wanted])
        yield from chance.permutation(np.concatenate(chosen)).tolist()


class BucketedSampler(EpochSampler):
    """Pictures with captions of like length beside each other, in groups of a batch of all processes.

    Args:
        lengths: Tokens of each picture's caption in an epoch, ``[n]``.
        count: Number of pictures.
        batch_size: Pictures of a batch, times the number of processes: dealt out in turn, each process then
            has like lengths too.
        seed: Seed of the run.
    """

    def __init__(
        self, lengths: Callable[[int], NDArray[np.int64]], count: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(range(count), seed)
        self._lengths = lengths
        self._batch_size = batch_size

    @override
    def __iter__(self) -> Iterator[int]:
        chance = np.random.default_rng([self._seed, self.epoch])
        shuffled = chance.permutation(len(self))  # which of like length meet differs from epoch to epoch
        order = shuffled[np.argsort(self._lengths(self.epoch)[shuffled], kind="stable")]
        whole = len(order) // self._batch_size * self._batch_size
        # a part of a batch would move the borders of those after it, so it comes last; chance says which one it is
        spare = len(order) - whole
        start = (
            int(chance.integers(len(order) // self._batch_size + 1)) * self._batch_size if spare else whole
        )
        rest = order[start : start + spare]
        batches = np.concatenate([order[:start], order[start + spare :]]).reshape(-1, self._batch_size)
        yield from chance.permutation(batches).ravel().tolist()
        yield from rest.tolist()


class RankOrder(DistributedSampler[tuple[int, int]]):
    """One process's share of another sampler's indices, each with the epoch.

    Args:
        order: The other sampler; on all processes the same.
        rank: This process.
        ranks: Number of processes. The first indices come again at the end where the processes would otherwise not
            have as many.
    """

    def __init__(self, order: _Order, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(range(len(order)), ranks, rank, shuffle=False)  # type: ignore[arg-type]  # for its length
        self._order = order

    @override
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it."""
        super().set_epoch(epoch)
        self._order.set_epoch(epoch)

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices = list(self._order)
        indices += indices[: -len(indices) % self.num_replicas]
        for index in indices[self.rank :: self.num_replicas]:
            yield self.epoch, index
