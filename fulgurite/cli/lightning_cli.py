"""LightningCLI with our trainer, our defaults and errors of one sentence."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import callbacks.stages  # noqa: F401 (stages can be named by their class in a recipe)
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401
from callbacks.cascade import Cascade
from callbacks.prediction_writer import PredictionWriter
from fulgurite.artifact.files import write_file
from fulgurite.cli.main import UsageError
from lightning_modules.trainer import Trainer

_SKIPPED = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
    "test": {"model", "dataloaders", "datamodule"},
    "predict": {"model", "dataloaders", "datamodule"},
    "compress": {"model", "datamodule"},
}


def make_cli(verb: str, arguments: Sequence[str], output_dir: Path, name: str | None = None) -> FulguriteCLI:
    """Parse, build and run one verb.

    Raises:
        UsageError: If the command line or a recipe is wrong.
    """

    class OneVerb(FulguriteCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {verb: _SKIPPED[verb]}

    return OneVerb([verb, *arguments], output_dir, name)


class FulguriteCLI(LightningCLI):
    """The Lightning verbs, run into one folder.

    Args:
        arguments: The verb and what follows it.
        output_dir: The run's folder.
        name: The recipe's name; the folder's where there is none.
    """

    def __init__(self, arguments: Sequence[str], output_dir: Path, name: str | None = None) -> None:
        self.output_dir = output_dir
        self.name = name or output_dir.name
        self.arguments = list(arguments)
        self.accepted = True
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=Trainer,
            trainer_defaults={
                "default_root_dir": str(output_dir),
                "callbacks": [PredictionWriter(output_dir)] if "predict" in self.subcommands() else [],
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": str(output_dir), "name": "metrics", "version": ""},
                },
            },
            parser_class=Parser,
            parser_kwargs={"prog": "fulgurite"},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=list(arguments),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what we were given; the base class would compare it with ``sys.argv`` and warn."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own flags, and the cascade for ``compress``."""
        parser.add_argument(
            "--output_dir",
            type=str | None,
            default=None,
            help="Folder that the run writes to (default: runs/<recipe>-<time>). An unfinished run of the same "
            "recipe there is gone on with.",
        )
        if "compress" in self.subcommands():
            parser.add_argument(
                "--restart", action="store_true", help="Throw away what an earlier run left in --output_dir."
            )
            parser.add_lightning_class_args(Cascade, "cascade")

    def before_instantiate_classes(self) -> None:
        """Send what a verb writes to the run's folder."""
        config = self.config[self.subcommand]
        config["trainer"]["default_root_dir"] = str(self.output_dir)
        if self.subcommand == "fit":
            arguments = config["model"].get("init_args", {})
            if "export_dir" in arguments and arguments["export_dir"] is None:
                arguments["export_dir"] = str(self.output_dir / "network")

    def _run_subcommand(self, subcommand: str) -> None:
        self._dump_config()
        recipe = dict(self.config_dump)
        trainer: Any = self.trainer
        cascade = next((callback for callback in trainer.callbacks if isinstance(callback, Cascade)), None)
        if cascade is not None:
            cascade.recipe = recipe
            cascade.command = " ".join(["fulgurite", *map(shlex.quote, self.arguments)])
            cascade.name = self.name
            cascade.restart = bool(self.config[subcommand].get("restart"))
        elif self.trainer.is_global_zero:
            write_file(self.output_dir / "config.yaml", yaml.safe_dump(recipe, sort_keys=False).encode())
        super()._run_subcommand(subcommand)
        if cascade is not None and cascade.run is not None:
            self.accepted = cascade.run.success


class Parser(LightningArgumentParser):
    """A parser whose errors are one sentence that names near keys."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong instead of printing the usage of a hundred options."""
        raise UsageError(short_message(message, list(known_keys(self)))) from ex


def known_keys(parser: Any) -> Iterator[str]:
    """Every key that a recipe may have, as far as the parser knows them by name."""
    for action in parser._actions:
        if getattr(action, "dest", None) and not action.dest.startswith("_"):
            yield action.dest
        for sub in (getattr(action, "_name_parser_map", None) or {}).values():
            yield from known_keys(sub)


def short_message(message: str, keys: Sequence[str]) -> str:
    """The part of a parser's message that helps, with near names for an unknown key."""
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    unknown = re.search(
        r"(?:[Kk]ey '([^']+)' is not expected|[Uu]nrecognized arguments: (\S+)|"
        r"does not accept (?:nested key|option) '([^']+)'|No action for key '([^']+)')",
        text,
    )
    if unknown:
        key = next(group for group in unknown.groups() if group).lstrip("-").split("=")[0]
        near = difflib.get_close_matches(key, keys, n=3, cutoff=0.4)
        where = _place(text)
        return f"unknown key {where}{key}" + (f"; near: {', '.join(near)}" if near else "")
    return text if len(text) < 400 else text[:400].rsplit(" ", 1)[0] + " ..."


def _place(text: str) -> str:
    found = re.search(r"Parser key \"?'?([\w.]+)", text)
    return f"{found.group(1)}." if found else ""
