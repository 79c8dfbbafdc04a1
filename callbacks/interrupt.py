"""Stop a long run between two pieces of work, not inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from fulgurite.processes import RankError
from lightning_modules.ranks import lost


class RunStopped(Exception):
    """The user or the cluster asked the run to stop; what is finished is on disk."""


class StoppedAtOnce(RunStopped):
    """It was asked to stop a second time: this may be within a piece of work."""


class StopOnSignal:
    """Turn the first Ctrl-C or SIGTERM into a request that ``check`` answers; the second acts at once.

    Use as a context; outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ``RunStopped`` if a stop was asked for, ``RankError`` if another process of the run was lost."""
        if self.requested:
            raise RunStopped("stopped on request")
        if sentence := lost():
            raise RankError(sentence)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._at_once)

    def _at_once(self, number: int, frame: FrameType | None) -> None:
        raise StoppedAtOnce("stopped at once")
