r"""Decoded and resized pictures in memory, the least recently used dropped beyond a limit.

key -> kept? -> pixels uint8 [3, h, w]
        \-> decode, keep, drop the oldest
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info


class PictureCache:
    """Pixels by key.

    Each worker of a data loader has a cache of its own, with its share of the limit; the figures are then those of
    the process that reads them.

    Args:
        limit: Bytes of pixels at most; 0 keeps nothing.

    Attributes:
        hits: How often a picture was there.
        misses: How often it had to be made.
        bytes: Pixels kept now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget all pictures and counts."""
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.hits = self.misses = self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The pixels of ``key``, made where they are not there; not to be written to."""
        found = self._kept.get(key)
        if found is not None:
            self.hits += 1
            self._kept.move_to_end(key)
            return found
        self.misses += 1
        pixels = make()
        worker = get_worker_info()
        limit = self.limit if worker is None else self.limit // worker.num_workers
        if pixels.nbytes <= limit:
            self._kept[key] = pixels
            self.bytes += pixels.nbytes
        while self.bytes > limit:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def __len__(self) -> int:
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit}  # a spawned worker fills its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]
