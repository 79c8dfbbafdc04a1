"""``fulgurite search``: trials over the keys of a recipe, each a ``fulgurite compress`` of its own."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

from fulgurite.cli._layout import check_layout
from fulgurite.cli.main import UsageError

if TYPE_CHECKING:
    from fulgurite.search.study import Study

_EXAMPLE = """\
a search file, configs/search/<name>.yaml:

  recipe: configs/recipes/stories260k.yaml      # what is searched around
  overrides: {cascade.limit_windows: 64}        # keys that all trials have
  space:                                        # keys that vary
    cascade.stages.ecq.allocate.bits_per_weight: {type: float, low: 1.5, high: 4, step: 0.25}
    cascade.stages.ecq.codec.states: {choices: [1, 8]}
    cascade.stages.ecq.refine.steps: {type: int, low: 0, high: 200, step: 50}
    cascade.stages.ecq.refine.learning_rate: {type: float, low: 0.0003, high: 0.01, log: true}
  objectives: [bytes, retention]                # several: a Pareto front; or {metric: ..., direction: minimize}
  trials: 24                                    # timeout_minutes: 60 too
  sampler: tpe                                  # random, grid, nsga2; or {type: tpe, n_startup_trials: 6}
  pruner: none                                  # median, percentile, halving, hyperband: with one objective
  early: {min_retention: 0.5, limit_windows: 16}
  early_stopping: {patience: 10}
  storage: postgresql://user:${PASSWORD}@host/db  # default: SQLite in the study's folder
  seed: 0
  workers: 2

metrics: bytes, ratio, bits_per_weight, retention, retention_low, latency_ms, seconds, score/<measure>,
retention/<measure>. A search that was stopped or killed is continued by the same command; the same command started
twice makes two workers of one study. Exit status: 0 there is a result, 1 a failure, 2 wrong usage, 3 every trial was
rejected or given up, 130 stopped.
"""


def run(verb: str, arguments: Sequence[str]) -> int:
    """Search; the exit status says whether any trial has a result."""
    given = _parser(verb).parse_args(list(arguments))
    missing = [name for name in ("optuna", "sqlalchemy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"fulgurite search needs {missing[0]}: pip install 'fulgurite[search]'")
    check_layout()
    from fulgurite.search.settings import read_search

    try:
        settings = read_search(given.config)
        for name in ("trials", "workers", "timeout_minutes", "storage"):
            if getattr(given, name) is not None:
                settings = replace(settings, **{name: getattr(given, name)})
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not given.no_check:
        from fulgurite.cli.search_keys import check_search

        check_search(settings)

    from fulgurite.search.study import Study

    folder = given.output_dir or Path("runs") / f"search-{settings.name}"
    study = Study(settings, folder)
    try:
        return _search(study, " ".join(["fulgurite", verb, *map(shlex.quote, arguments)]))
    finally:
        study.release()


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description="Search over the keys of a recipe; every trial is a compress run in STUDY/trials/NNN.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the search, see below")
    parser.add_argument(
        "--output_dir", type=Path, metavar="STUDY", help="the study's folder (default: runs/search-<name>)"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="in place of the file's")
    parser.add_argument("--workers", type=int, metavar="N", help="trials at a time, in place of the file's")
    parser.add_argument("--timeout_minutes", type=float, metavar="M", help="in place of the file's")
    parser.add_argument("--storage", metavar="URL", help="in place of the file's")
    parser.add_argument(
        "--no-check", action="store_true", help="do not hold the keys against the parser; for a second worker"
    )
    return parser


def _search(study: Study, command: str) -> int:
    from fulgurite.cli.search_console import SearchConsole
    from fulgurite.search.results import write_results
    from fulgurite.search.worker import run_workers

    stop, errors = Event(), list[BaseException]()
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped = False
    try:
        with SearchConsole(study) as console:
            try:
                reasons = run_workers(study, stop, console, errors.append)
            except KeyboardInterrupt:
                reasons, stopped = ["stopped"], True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    paths = write_results(study, command)
    console.closing(study, reasons, paths)
    if errors:
        raise errors[0]
    if stopped:
        print(f"stopped; finished trials are kept. To go on: {command}", file=sys.stderr)
        return 130
    if paths:
        return 0
    return 1 if all(trial.state == "failed" for trial in study.trials()) else 3


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
