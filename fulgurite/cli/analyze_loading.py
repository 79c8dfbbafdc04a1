"""A recipe's module, data and cascade as ``compress`` builds them, and an artefact's network beside it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn

from callbacks.stages.selection import select_weights
from fulgurite.analysis.subspaces import check_alike
from fulgurite.artifact.loading import load
from fulgurite.artifact.manifest import read_manifest
from fulgurite.cli.lightning_cli import FulguriteCLI
from fulgurite.cli.main import UsageError
from fulgurite.cli.messages import short_message
from fulgurite.models import unique_parameters
from lightning_modules.compressible import Compressible, introduce

OWN = "-"
"""In the place of a network: the one that the recipe names."""


@dataclass(frozen=True)
class Pair:
    """A reference and a compressed network of the same weights.

    Args:
        module: Around the reference.
        datamodule: Read as the module reads.
        reference: The network.
        compressed: Loaded as a user loads it.
        folder: Of the artefact.
    """

    module: Compressible
    datamodule: Any
    reference: nn.Module
    compressed: nn.Module
    folder: Path

    def weights(self, select: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Matrices of both that match a pattern, tied ones once.

        Raises:
            ValueError: If a pattern matches none.
        """
        ours, theirs = unique_parameters(self.reference), unique_parameters(self.compressed)
        kind = type(self.reference).__name__
        names = [name for name in select_weights(ours, select, network=kind) if ours[name].dim() >= 2]
        if not names:
            raise ValueError(f"select {list(select)} must match a matrix of {kind}, matches vectors only")
        return {name: ours[name] for name in names}, {name: theirs[name] for name in names}

    def batches(self, count: int) -> Iterator[Mapping[str, Tensor]]:
        """Calibration batches."""
        return islice(iter(self.module.calibration_batches(self.datamodule)), count)

    def rows(self, count: int) -> list[dict[str, Tensor]]:
        """Rows of training data, each a batch."""
        rows = self.module.refinement_windows(self.datamodule, count)
        return [self.module.as_batch(rows[place : place + 1]) for place in range(len(rows))]


class _Parts(FulguriteCLI):
    """Builds what a recipe describes and runs nothing."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"compress": {"model", "datamodule"}}

    def instantiate_classes(self) -> None:
        """Build; a recipe of no stage does."""
        try:
            LightningCLI.instantiate_classes(self)
        except (ValueError, TypeError) as error:
            raise UsageError(short_message(str(error))) from error

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def load_pair(given: argparse.Namespace, flags: Sequence[str]) -> Pair:
    """Build the recipe's module around the reference, and load the artefact.

    Args:
        given: ``reference``, ``artefact``, ``config``.
        flags: Of ``compress``; they change the recipe.

    Raises:
        UsageError: If the recipe is wrong.
        ValueError: If the two networks' weights differ in names or shapes.
    """
    folder = artifact_folder(given.artefact)
    arguments = ["compress", "--config", str(given.config), *flags]
    if given.reference != OWN:
        arguments.append(f"--model.init_args.source={given.reference}")
    # nothing is written there: no logger is asked to
    parts = _Parts(arguments, Path("runs/analyze"))
    if not isinstance(parts.model, Compressible):
        kind = type(parts.model).__name__
        raise ValueError(f"{given.config}: {kind} cannot be analysed: it does not implement Compressible")
    module: Any = parts.model
    datamodule: Any = parts.datamodule
    module.trainer = parts.trainer
    parts.trainer._data_connector.attach_datamodule(module, datamodule=datamodule)
    module.configure_model()
    introduce(datamodule, module)
    datamodule.prepare_data()
    datamodule.setup("fit")
    reference: Any = module.network.eval()
    reference.requires_grad_(False)
    compressed = load(folder, device=next(reference.parameters()).device)
    try:
        check_alike(unique_parameters(reference), unique_parameters(compressed))
    except ValueError as error:
        raise ValueError(f"{given.reference} and {folder}: {error}") from error
    return Pair(module, datamodule, reference, compressed, folder)


def artifact_folder(folder: Path) -> Path:
    """An artefact's folder, or a run's; its checksums are compared.

    Raises:
        ArtifactError: If it is neither.
    """
    nested = folder / "artifact"
    if not (folder / "fulgurite.json").exists() and (nested / "fulgurite.json").exists():
        folder = nested
    read_manifest(folder).verify()
    return folder
