"""One process at a time works in a folder: a lock that a kill releases. No torch here."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Self

LOCK_NAME = ".lock"


class FolderLock:
    """An advisory lock on a folder; the system lets go of it when the process ends, however it ends.

    Args:
        folder: Must exist when the lock is asked for.
        wait: Until another process lets go of it.

    Example::

        with FolderLock(folder) as lock:
            if not lock.held:
                raise ValueError(f"{folder}: another process is working there")
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        self.folder, self.wait = folder, wait
        self._file: IO[str] | None = None
        self.held = False

    def acquire(self) -> bool:
        """Take the lock; whether it is ours now. Always, on a system without such locks."""
        try:
            import fcntl
        except ImportError:
            self.held = True
            return True
        self._file = (self.folder / LOCK_NAME).open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if self.wait else fcntl.LOCK_NB))
        except OSError:
            self.release()
            return False
        self.held = True
        return True

    def release(self) -> None:
        """Let another process work there; twice is harmless."""
        if self._file is not None:
            self._file.close()
        self._file, self.held = None, False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def is_free(folder: Path) -> bool:
    """Whether no process works in a folder."""
    with FolderLock(folder) as lock:
        return lock.held
