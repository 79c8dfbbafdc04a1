"""``fulgurite fit|validate|test|predict|compress``: LightningCLI over our modules, data and cascade."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from fulgurite.cli._layout import check_layout

_RUN_DIR = (
    "FULGURITE_OUTPUT_DIR"  # processes that Lightning launches inherit it: all ranks write to one folder
)


def recipe_name(arguments: Sequence[str]) -> str | None:
    """The last configuration file's name without its ending."""
    recipe = _value_of(arguments, "--config")
    return Path(recipe).stem if recipe else None


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run a Lightning verb; for ``compress`` the exit status says whether anything was accepted."""
    check_layout()
    _quiet()
    from callbacks.interrupt import RunStopped
    from fulgurite.cli.lightning_cli import make_cli

    _quiet_loggers()

    launched = _RUN_DIR in os.environ
    output_dir = _output_dir(verb, arguments)
    try:
        cli = make_cli(verb, arguments, output_dir, recipe_name(arguments))
    except RunStopped:
        command = " ".join(["fulgurite", verb, *map(shlex.quote, arguments)])
        if "--output_dir" not in command:
            command += f" --output_dir {output_dir}"
        print(f"stopped; what is finished is kept. To go on: {command}", file=sys.stderr)
        return 130
    finally:
        if not launched:
            os.environ.pop(_RUN_DIR, None)
    return 0 if cli.accepted else 3


def _output_dir(verb: str, arguments: Sequence[str]) -> Path:
    """``--output_dir``, or ``runs/<recipe>-<time>``."""
    if inherited := os.environ.get(_RUN_DIR):
        return Path(inherited)
    chosen = _value_of(arguments, "--output_dir")
    if chosen is None:
        name = recipe_name(arguments) or verb
        chosen = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    os.environ[_RUN_DIR] = chosen
    return Path(chosen)


def _value_of(arguments: Sequence[str], flag: str) -> str | None:
    value = None
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def _quiet() -> None:
    """Lightning's and transformers' remarks that a user can do nothing about."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")  # as after a resume
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|lightning")


def _quiet_loggers() -> None:
    """After the import, which sets the levels of its own loggers."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        for child in (
            name,
            f"{name}.utilities.rank_zero",
            f"{name}.utilities.seed",
            f"{name}.accelerators.cuda",
        ):
            logging.getLogger(child).setLevel(logging.WARNING)
