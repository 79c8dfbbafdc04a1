"""The history of a run: an append-only file of JSON lines that outlives a crash.

EventLog.append(event, **fields) -> {"time": ..., "event": ..., ...} + newline -> events.jsonl -> read_events
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from fulgurite.reporting.record import json_ready

EVENTS_NAME = "events.jsonl"


class EventLog:
    """Append events to a file, one JSON object a line.

    A line reaches the operating system in a single write before ``append`` returns, so a killed process
    loses at most the line it was writing. Opening the file again, as a resumed run does, removes such a
    cut line and goes on behind the last whole one. One process writes; any number may read meanwhile.

    Args:
        path: The file, usually ``<run>/events.jsonl``; made with its folder where it is missing.

    Example::

        with EventLog("runs/books6m/events.jsonl") as log:
            log.append("gate", stage="vptq2", accepted=True)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (lives as long as the log)
        self._mend()

    def _mend(self) -> None:
        """Drop a last line that was cut; end it where only its newline is missing."""
        self._file.seek(0)
        contents = self._file.read()
        whole, newline, tail = contents.rpartition(b"\n")
        if not tail:
            return
        if _parse(tail) is not None:
            self._file.write(b"\n")
        else:
            self._file.truncate(len(whole) + len(newline))

    def append(self, event: str, /, **fields: Any) -> None:
        """Write one event with the time of now.

        Args:
            event: What happened.
            **fields: What belongs to it; anything that ``json_ready`` takes, NaN becomes null.

        Raises:
            ValueError: If a field is called ``time`` or ``event``, or the log is closed.
            TypeError: If a field has no JSON form; nothing is written then.
        """
        taken = sorted({"time", "event"} & set(fields))
        if taken:
            raise ValueError(f"fields must not be called time or event, got {', '.join(taken)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **json_ready(fields)}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Read all events of a run, also of one that is still going on or was killed.

    A last line without its newline that is no whole event was being written: it is left out. A file that
    does not exist yet has no events.

    Args:
        path: The file, or the run's folder with ``events.jsonl`` in it.

    Raises:
        ValueError: If a line before the last is no event: the file was altered. Names path and line.
    """
    path = Path(path)
    if path.is_dir():
        path /= EVENTS_NAME
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        event = _parse(line)
        if event is not None:
            events.append(event)
        elif line and number < len(lines):  # what stands behind the last newline may be half a line
            found = line[:40].decode(errors="replace")
            raise ValueError(
                f"{path}: line {number} must be a JSON object with time and event, got {found!r}"
            )
    return events


def _parse(line: bytes) -> dict[str, Any] | None:
    """The event on a line, or ``None`` where it is not a whole one."""
    try:
        event = json.loads(line)
    except ValueError:  # cut JSON, or cut in the middle of a UTF-8 character
        return None
    return event if isinstance(event, dict) and {"time", "event"} <= event.keys() else None
