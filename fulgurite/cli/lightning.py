"""``fulgurite fit|validate|test|predict|compress``: LightningCLI over our modules, data and cascade."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fulgurite.cli._layout import check_layout
from fulgurite.cli.main import UsageError

_RUN_DIR = (
    "FULGURITE_OUTPUT_DIR"  # processes that Lightning launches inherit it: all ranks write to one folder
)


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run a Lightning verb; for ``compress`` the exit status says whether anything was accepted."""
    check_layout()
    _quiet()
    from callbacks.interrupt import RunStopped
    from fulgurite.cli.lightning_cli import make_cli
    from lightning_modules.ranks import as_lost

    _quiet_loggers()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning's own shutdown from here on
    recipes = read_recipes(arguments)
    launched = _RUN_DIR in os.environ
    output_dir = _output_dir(verb, arguments, recipes)
    try:
        cli = make_cli(verb, arguments, output_dir, [None, *recipes][-1])
    except RunStopped:
        kept = [
            argument for argument in arguments if argument != "--restart"
        ]  # it would throw away what is finished
        if _values_of(kept, "--output_dir") == []:
            kept += ["--output_dir", str(output_dir)]
        if os.environ.get("LOCAL_RANK", "0") == "0":
            command = " ".join(["fulgurite", verb, *map(shlex.quote, kept)])
            print(f"stopped; what is finished is kept. To go on: {command}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if (lost := as_lost(error)) is None:
            raise
        raise lost from error
    finally:
        if not launched:
            os.environ.pop(_RUN_DIR, None)
    return 0 if cli.accepted else 3


def read_recipes(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The configuration files by their names without endings, in order.

    Raises:
        UsageError: If a file is missing or holds no recipe.
    """
    recipes = {}
    for name in [*_values_of(arguments, "--config"), *_values_of(arguments, "-c")]:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{path}: no such recipe")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: expected a recipe in YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise UsageError(f"{path}: expected a recipe, a mapping of keys, got {type(content).__name__}")
        recipes[path.stem] = content
    return recipes


def _output_dir(verb: str, arguments: Sequence[str], recipes: Mapping[str, Mapping[str, Any]]) -> Path:
    """``--output_dir``, or the recipe's, or ``runs/<recipe>-<time>``."""
    given = [str(recipe["output_dir"]) for recipe in recipes.values() if recipe.get("output_dir")]
    given += _values_of(arguments, "--output_dir")
    name = [verb, *recipes][-1]
    default = os.environ.get(_RUN_DIR) or f"runs/{name}-{_sweep_run() or time.strftime('%Y%m%d-%H%M%S')}"
    os.environ[_RUN_DIR] = given[-1] if given else default
    return Path(os.environ[_RUN_DIR])


def _sweep_run() -> str | None:
    """Of a run that an agent of a W&B sweep has started: two agents may start one in the same second."""
    identity = [os.environ.get(key) for key in ("WANDB_SWEEP_ID", "WANDB_RUN_ID")]
    return "-".join(filter(None, identity)) if all(identity) else None


def _values_of(arguments: Sequence[str], flag: str) -> list[str]:
    values = []
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            values.append(arguments[position + 1])
        elif argument.startswith(f"{flag}="):
            values.append(argument.partition("=")[2])
    return values


def _quiet() -> None:
    """Lightning's and transformers' remarks that a user can do nothing about."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")  # as after a resume
    warnings.filterwarnings(
        "ignore", message="Found .* module.* in eval mode"
    )  # the networks that are not trained
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|lightning")


def _quiet_loggers() -> None:
    """After the import, which sets the levels of its own loggers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("lightning.pytorch", "lightning.fabric"):
        for child in (
            name,
            f"{name}.utilities.rank_zero",
            f"{name}.utilities.seed",
            f"{name}.accelerators.cuda",
        ):
            logging.getLogger(child).setLevel(logging.WARNING)
