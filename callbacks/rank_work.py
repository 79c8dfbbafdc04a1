"""Ranks of a cascade: how one says what went wrong with it alone, and how many there were before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from callbacks.interrupt import RunStopped, StopOnSignal
from fulgurite.processes import RankError
from fulgurite.reporting.record import read_record
from lightning_modules.ranks import as_lost


@contextmanager
def own_work(rank: int) -> Iterator[None]:
    """Work that may fail on one rank alone: that rank then says why, as the others see no more than that it is gone."""
    try:
        yield
    except (RunStopped, RankError):
        raise
    except Exception as error:
        if rank == 0 or as_lost(error) is not None:
            raise
        raise RankError(f"rank {rank}: {error}") from error


@contextmanager
def stopped_together(stop: StopOnSignal) -> Iterator[None]:
    """All ranks were told to stop, and one that waits for another finds it gone: that is no failure."""
    try:
        yield
    except RuntimeError as error:
        if stop.requested and as_lost(error) is not None:
            raise RunStopped("stopped on request") from error
        raise


def processes_before(folder: Path) -> int | None:
    """How many processes an earlier start of a run had; ``None`` where it did not come to a record."""
    try:
        return int(read_record(folder)["environment"]["world_size"])
    except (OSError, ValueError):
        return None
