"""LightningCLI with our trainer, our defaults and errors of one sentence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import callbacks.stages  # noqa: F401 (stages can be named by their class in a recipe)
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401
from callbacks.cascade import Cascade
from callbacks.prediction_writer import PredictionWriter
from callbacks.same_ranks import SameRanks
from fulgurite.artifact.files import write_file
from fulgurite.cli.main import UsageError
from fulgurite.cli.messages import known_names, short_message
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
                "callbacks": self._callbacks(output_dir),
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    # without a name, which another logger put in its place would inherit
                    "init_args": {"save_dir": str(output_dir / "metrics"), "name": None, "version": ""},
                },
            },
            parser_class=Parser,
            parser_kwargs={"prog": "fulgurite"},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=list(arguments),
        )

    def _callbacks(self, output_dir: Path) -> list[Callback]:
        if "compress" in self.subcommands():
            return []  # the trainer compares ranks before it asks for data
        if "predict" in self.subcommands():
            return [SameRanks(), PredictionWriter(output_dir)]
        if "fit" in self.subcommands():
            folder = output_dir / "checkpoints"
            return [SameRanks(), ModelCheckpoint(folder, save_last=True, enable_version_counter=False)]
        return [SameRanks()]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what we were given; the base class would compare it with ``sys.argv`` and warn."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own flags, and the cascade for ``compress``."""
        parser.add_argument(
            "--output_dir",
            type=str | None,
            default=None,
            help="Folder that the run writes to (default: runs/<recipe>-<time>). "
            + (
                "An unfinished run of the same recipe there is gone on with."
                if "compress" in self.subcommands()
                else "To go on with an unfinished fit: --ckpt_path DIR/checkpoints/last.ckpt."
            ),
        )
        if "compress" in self.subcommands():
            parser.add_argument(
                "--restart", action="store_true", help="Throw away what an earlier run left in --output_dir."
            )
            parser.add_argument(
                "--allow-uninformative",
                action="store_true",
                help="Run where the reference is at chance on every measure, so that nothing can be accepted.",
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

    def instantiate_classes(self) -> None:
        """Build what the recipe describes; what it gets wrong is wrong usage.

        Raises:
            UsageError: If a setting is out of range, or nothing is to be done.
        """
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            raise UsageError(short_message(str(error))) from error
        cascade = self._get(self.config_init, "cascade") if "compress" in self.subcommands() else None
        if isinstance(cascade, Cascade) and not cascade.stages:
            raise UsageError(
                "cascade.stages is empty: name at least one stage, see configs/cascade/default.yaml"
            )

    def _run_subcommand(self, subcommand: str) -> None:
        self._dump_config()
        recipe = dict(self.config_dump)
        trainer: Any = self.trainer
        trainer.recipe = recipe
        cascade = next((callback for callback in trainer.callbacks if isinstance(callback, Cascade)), None)
        if cascade is not None:
            cascade.recipe = recipe
            cascade.command = " ".join(["fulgurite", *map(shlex.quote, self.arguments)])
            cascade.name = self.name
            cascade.restart = bool(self.config[subcommand].get("restart"))
            cascade.allow_uninformative |= bool(self.config[subcommand].get("allow_uninformative"))
        elif self.trainer.is_global_zero:
            write_file(self.output_dir / "config.yaml", yaml.safe_dump(recipe, sort_keys=False).encode())
        super()._run_subcommand(subcommand)
        if cascade is not None and cascade.run is not None:
            self.accepted = cascade.run.success


class Parser(LightningArgumentParser):
    """A parser whose errors are one sentence that names near keys."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong instead of printing the usage of a hundred options."""
        raise UsageError(short_message(message, known_names(self))) from ex
