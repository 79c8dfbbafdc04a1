"""Ranks of a run as processes forked from the test's own, which has imported everything: that takes the longest."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path


def start(count: int, work: Callable[[int], int], place: Path) -> list[BaseProcess]:
    """Fork the ranks of a run as torchrun and srun start them; each prints to a file of its own.

    Args:
        count: Of ranks; one alone knows of no others.
        work: Takes the rank and gives its exit status.
        place: Folder of what they say.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def rank_of(rank: int) -> None:
        import torch

        torch.set_num_threads(1)
        output = os.open(place / f"said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.pop("FULGURITE_OUTPUT_DIR", None)
        if count > 1:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
            os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        status = 1
        try:
            status = work(rank)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = [context.Process(target=rank_of, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[BaseProcess], place: Path) -> list[tuple[int | None, str]]:
    """Exit status and words of each rank."""
    for process in processes:
        process.join(timeout=240)
    return [
        (process.exitcode, (place / f"said-{rank}").read_text()) for rank, process in enumerate(processes)
    ]


def run_script(count: int, script: str, place: Path, *arguments: str) -> None:
    """Run a script as a program on so many ranks, which must all end well."""

    def work(rank: int) -> int:
        sys.argv = ["script.py", *arguments]
        exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})
        return 0

    for status, said in finish(start(count, work, place), place):
        assert status == 0, said[-3000:]


def run_command(count: int, command: Sequence[str], place: Path) -> None:
    """Run a command of ``fulgurite`` on so many ranks, which must all end well."""
    from fulgurite.cli.main import main

    more = ["--trainer.devices", str(count), "--trainer.strategy", "ddp"] if count > 1 else []
    for status, said in finish(start(count, lambda rank: main([*command, *more]), place), place):
        assert status == 0, said[-3000:]
