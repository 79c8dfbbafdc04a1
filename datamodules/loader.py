"""A data loader whose order and place in an epoch survive a resume.

    (seed, epoch) -> permutation -> batches -> skip those that the interrupted run has seen

Lightning stores ``state_dict`` of a loader in each checkpoint and tells its sampler the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from typing_extensions import override


class EpochSampler(Sampler[int]):
    """A permutation that is a function of the seed and the epoch alone.

    With several processes Lightning shares its indices out by a distributed sampler of its own.

    Args:
        data: What is sampled.
        seed: Seed of the run.
    """

    def __init__(self, data: Sized, seed: int) -> None:
        self.epoch = 0
        self._length = len(data)
        self._seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    @override
    def __iter__(self) -> Iterator[int]:
        # the large odd factor keeps (seed, epoch) and (seed + 1, epoch - 1) apart
        generator = torch.Generator().manual_seed(self._seed + 0x9E3779B1 * self.epoch)
        yield from torch.randperm(self._length, generator=generator).tolist()


class ResumableDataLoader(DataLoader[dict[str, Tensor]]):
    """A loader that goes on within an epoch where a checkpoint was written.

    The batches already seen are not made again, only counted off.
    """

    _seen = 0
    _epoch = 0
    _skip: tuple[int, int] | None = None

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base names a private class
        # a generator: it looks at the epoch when the first batch is asked for, after set_epoch
        epoch = int(getattr(self.sampler, "epoch", 0))
        skipped = 0
        if self._skip is not None and self._skip[0] == epoch:
            skipped = self._skip[1]
        self._skip = None
        self._epoch, self._seen = epoch, skipped
        for batch in self._rest(skipped):
            self._seen += 1
            yield batch

    def _rest(self, skipped: int) -> Iterator[Any]:
        if not skipped:
            yield from super().__iter__()
            return
        assert self.batch_sampler is not None
        rest = DataLoader(
            self.dataset,
            batch_sampler=list(self.batch_sampler)[skipped:],
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.pin_memory,
            generator=self.generator,  # else it would draw from the global one
        )
        yield from rest

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of its batches handed out."""
        return {"epoch": self._epoch, "seen": self._seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that ``state_dict`` counted."""
        self._skip = (state["epoch"], state["seen"])
