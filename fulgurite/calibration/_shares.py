"""Calibration shared out over processes, with sums that do not depend on how many there are.

    batch i -> chunk i mod 8 -> rank (chunk mod ranks), which sums its chunk by itself, from zero
    round by round:  rank 0 + rank 1 + ...  -> totals on rank 0, chunk after chunk

Floating-point sums depend on their order: so it is that of the chunks, whoever makes them, and one process takes the
same way alone. A chunk is sent when it is whole: a process holds the sums of one of them, and rank 0 the totals.

Processes that share out a network itself make every call together: where one has a batch more in its chunk, the others
make idle calls, which nothing is summed of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]

CHUNKS = 8
"""Most processes that gather at a time: each chunk's sums are sent once, so more would cost more traffic."""


@dataclass
class Moments:
    """Running sums of one layer in a form that processes can exchange.

    Args:
        tensors: The same number of the same shapes from every process that has some.
        count: Of what was summed.
    """

    tensors: list[Tensor]
    count: int


class Sums(Protocol):
    """Running sums of one layer."""

    def take(self) -> Moments | None:
        """What was summed since the last time; ``None`` for nothing."""

    def put(self, moments: Moments) -> None:
        """Add what another one has taken, which may be kept."""


@dataclass(frozen=True)
class Share:
    """This process among those that gather together, over ``torch.distributed``'s process group.

    Args:
        rank: This process. Rank 0 gets the result.
        world_size: Number of processes; all must call with the same network, batches and settings.
        in_step: The network is in parts on all processes, which must call it equally often.
    """

    rank: int = 0
    world_size: int = 1
    in_step: bool = False

    def add_up(self, sums: Sequence[Sums], totals: Sequence[Sums]) -> None:
        """Take a chunk's sums of each layer and add them to rank 0's totals, in the order of ranks."""
        taken = [each.take() for each in sums]
        if self.world_size == 1:
            _put(taken, totals)
            return
        facts = self.gather(
            [
                None if each is None else ([(part.shape, part.dtype) for part in each.tensors], each.count)
                for each in taken
            ]
        )
        device = next((part.device for each in taken if each for part in each.tensors), _device())
        if self.rank == 0:
            _put(taken, totals)
            for rank in range(1, self.world_size):
                for fact, total in zip(facts[rank], totals, strict=True):
                    if fact is not None:
                        tensors = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in fact[0]]
                        for tensor in tensors:
                            torch.distributed.recv(tensor, src=rank)
                        total.put(Moments(tensors, fact[1]))
            return
        for each in taken:
            for tensor in [] if each is None else each.tensors:
                torch.distributed.send(tensor.contiguous(), dst=0)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value on rank 0, in their order; on the others nothing."""
        if self.world_size == 1:
            return [value]
        found: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        torch.distributed.gather_object(value, found, dst=0)
        return found or []

    def agree(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def least(self, value: int | None) -> int | None:
        """The least of all ranks' values; ``None`` stands for any."""
        found = self.gather(value)
        least: int | None = self.agree(min((each for each in found if each is not None), default=None))
        return least


class Batches:
    """The chunks of this process's share, on a device, for one pass or several; counts batches.

    Args:
        batches: All of them, the same on every process.
        device: Where to.
        progress: Called with the number of batches done after each, over all passes.
        share: This process.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        device: torch.device,
        progress: Callable[[int], None] | None,
        share: Share,
    ) -> None:
        self._batches = batches
        self._device = device
        self._progress = progress
        self._share = share
        self._kept: list[list[Batch]] | None = None
        self._done = 0
        self.idle = False
        """The present batch is another process's turn, and nothing of it counts."""

    def chunks(self) -> Iterator[tuple[int, Iterator[Batch]]]:
        """The number of a chunk and its batches, as often as rank 0 has one; there may be none in the last.

        Raises:
            ValueError: If there is no batch at all.
        """
        kept = self._keep()
        for chunk in range(self._share.rank, self._rounds * self._share.world_size, self._share.world_size):
            own = kept[chunk] if chunk < CHUNKS else []
            first = chunk - self._share.rank  # of this round: none of it has more batches
            waiting = self._size(first) - len(own) if self._share.in_step else 0
            yield chunk, self._moved(own, waiting)

    def _keep(self) -> list[list[Batch]]:
        if self._kept is None:
            self._kept = [[] for _ in range(CHUNKS)]
            count = 0
            for batch in self._batches:
                if count == 0:
                    self._spare = batch
                chunk = count % CHUNKS
                if chunk % self._share.world_size == self._share.rank:
                    self._kept[chunk].append(batch)
                count += 1
            if count == 0:
                raise ValueError(
                    "calibration needs at least one batch, got none: is the training text too short?"
                )
            self._count = count
            self._rounds = -(-min(count, CHUNKS) // self._share.world_size)
        return self._kept

    def _size(self, chunk: int) -> int:
        """Batches of a chunk."""
        return len(range(chunk, self._count, CHUNKS))

    def _moved(self, chunk: Sequence[Batch], waiting: int) -> Iterator[Batch]:
        for batch in chunk:
            yield self._on_device(batch)
            self._done += 1
            if self._progress is not None:
                self._progress(self._done)
        self.idle = True
        for _ in range(waiting):
            yield self._on_device(self._spare)
        self.idle = False

    def _on_device(self, batch: Batch) -> Batch:
        return {
            key: value.to(self._device) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }


def _put(taken: Sequence[Moments | None], totals: Sequence[Sums]) -> None:
    for each, total in zip(taken, totals, strict=True):
        if each is not None:
            total.put(each)


def _device() -> torch.device:
    """Where the process group's messages lie."""
    nccl = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
