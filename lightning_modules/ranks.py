"""Processes of one run: what becomes of them when one ends before its time.

    launcher (rank 0) -- starts --> ranks 1, 2, ...      each watches the others that it can see, once a second
    one ends ->  a wait for it fails, or the watch tells  ->  RankError on every rank  ->  exit status 1

Lightning's own watch kills all processes without a word, rank 0 too. What a run has on disk is whole at every moment,
so it is enough to say what has happened and to end; the same command goes on. Ranks of other nodes are watched by
what has started them (torchrun, srun); what is on the wire fails at once with gloo.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from fulgurite.processes import RankError, signal_name

_PARENT = "FULGURITE_LAUNCHER_PID"  # ranks that a launcher starts know it by that
_ENDS = (0, 3, 130)  # done, every stage rejected, stopped: the others end by themselves
_GRACE = 60.0  # seconds that a process has to end by itself, which one that computes does between two pieces of work
_GOES_ON = "the run ends here; what is finished is kept, and the same command goes on from there"

_watch: _Watch | None = None


class WatchingLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of one process a device, whose processes end with a sentence when one is lost."""

    @override
    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other processes of this node, and call the function in all of them."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[_PARENT] = str(os.getpid())
            try:
                self._call_children_scripts()
            finally:
                del os.environ[_PARENT]
            _begin(_Watch(self.procs))
        elif _PARENT in os.environ:
            _begin(_Watch([], int(os.environ[_PARENT])))
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def lost() -> str:
    """Which other process was lost, in a sentence; empty where none is."""
    return "" if _watch is None else _watch.lost


def as_lost(error: BaseException) -> RankError | None:
    """What a failed exchange between ranks means; ``None`` where the error is no such failure."""
    if not isinstance(error, RuntimeError) or isinstance(error, RankError):
        return None
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
        return None
    return RankError(_sentence(_watch.which() if _watch is not None else "another rank has ended"))


def _sentence(what: str) -> str:
    return f"rank {_rank()}: {what}, so {_GOES_ON}"


def _rank() -> int:
    """This process, also after the process group has gone: Lightning remembers."""
    return int(getattr(rank_zero_only, "rank", 0))


def _begin(watch: _Watch) -> None:
    global _watch
    _watch = watch
    watch.start()


class _Watch(threading.Thread):
    """Looks once a second for processes of this node that have ended.

    Args:
        children: Ranks 1, 2, ... that this process has started.
        parent: The process that has started this one, if a launcher has.
    """

    def __init__(self, children: Sequence[subprocess.Popen[Any]], parent: int | None = None) -> None:
        super().__init__(daemon=True, name="ranks")
        self._children = children
        self._parent = parent
        self.lost = ""

    @override
    def run(self) -> None:
        while not (what := self._look()):
            time.sleep(1.0)
        self.lost = _sentence(what)
        time.sleep(_GRACE)  # by then a process that can end by itself has done so, and this thread with it
        print(f"error: {self.lost}", file=sys.stderr, flush=True)
        for child in self._children:
            child.kill()
        os._exit(1)

    def which(self) -> str:
        """Which process it was; an exchange fails some moments before a process that has died can be seen."""
        for _ in range(20):
            if what := self._look():
                return what
            time.sleep(0.1)
        return "another rank has ended"

    def _look(self) -> str:
        for rank, child in enumerate(
            self._children, start=1
        ):  # local ranks; on the first node they are global
            status = child.poll()
            if status is not None and status not in _ENDS:
                why = f"was killed by {signal_name(-status)}" if status < 0 else f"ended with status {status}"
                return f"rank {_rank() + rank} {why}"
        if self._parent is not None and os.getppid() != self._parent:
            return "the process that started it has ended"
        return ""
