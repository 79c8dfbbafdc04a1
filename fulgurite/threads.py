"""Do independent work side by side, each piece on one thread.

Two threads inside each small product meet again thousands of times a second; on a machine that is busy with
something else they wait for each other, and were ten times slower than one. Pieces beside each other never meet,
and what they compute does not depend on how many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """The results of all items, in their order.

    Python's lock lets numba and torch run beside each other and nothing else, so this is for work that is
    mostly theirs. No more than ``threads`` items and results are held at a time; gradients are off.

    Args:
        work: Must not touch what another item's work changes.
        items: What it gets, one after the other.
        threads: As many as torch is set to where it is not given. With 1 there are none but the caller's, and
            torch uses as many as it is set to.

    Raises:
        Exception: What ``work`` raised first, in the order of the items; those not begun are left.
    """
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    silent = torch.no_grad()(work)
    if threads == 1:
        yield from map(silent, items)
        return
    pending: deque[Future[Result]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        pending.extend(pool.submit(silent, item) for item in islice(rest, threads))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(silent, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a worker's setting is also the default of later threads
