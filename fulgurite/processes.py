"""Commands run in processes of their own: how they are ended, and what became of them. No torch here."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

_GRACE = 60.0  # seconds that a run has to write what it has, when it is told to stop


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Tell a process to stop as Ctrl-C does, and make it stop where it does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number itself where the system has no name for it."""
    return next((one.name for one in signal.Signals if one.value == number), str(number))


def last_words(log: Path, status: int) -> str:
    """Why a command has failed: the signal that killed it, or its last error.

    Args:
        log: What it printed.
        status: Its exit status; below 0 a signal's number.
    """
    if status < 0:
        return f"killed by {signal_name(-status)}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or ["no output"])[-1].removeprefix("error: ").strip()
    return f"exit status {status}: {said[:300]}"


class RankError(RuntimeError):
    """What one process of several has to say for itself: its text names the rank, and every rank prints its own."""
