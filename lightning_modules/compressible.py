"""What a cascade asks of the module whose network it compresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor, nn

from fulgurite.distillation import Outputs
from fulgurite.evaluation.benchmarks import PictureComparison
from fulgurite.evaluation.evaluation import Evaluation


class Objective(Protocol):
    """What it means for a network to answer as another does: what refinement and the metric `kl` go by."""

    def as_batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows of ``refinement_windows``, ``[n, length]``, as keyword arguments of the network."""

    def divergence(
        self, outputs: Any, reference: Any, batch: Mapping[str, Tensor], temperature: float = 1.0
    ) -> Tensor:
        """How far ``outputs`` are from the reference network's on one batch; 0 where they are equal.

        Mean over the places that count (positions of a language model, texts of an encoder), in nats where
        outputs are distributions; differentiable in ``outputs``. ``temperature`` softens distributions.
        """

    def sampled_loss(self, network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """A random loss, summed over places, whose gradient has the curvature of ``divergence``.

        Its second moment is the Fisher information of the outputs: the hessian of ``divergence`` at the
        reference times the number of places. See ``fulgurite.calibration.SampledLoss``.
        """

    def count_places(self, batch: Mapping[str, Tensor]) -> int:
        """How many places of a batch ``sampled_loss`` sums over."""

    def text_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Which positions of a batch's texts the outputs depend on, ``[n, t]``; ``None`` for all."""


@runtime_checkable
class Compressible(Objective, Protocol):
    """A LightningModule that a cascade can compress. Each network kind implements it once."""

    @property
    def network(self) -> nn.Module:
        """The network, trained."""

    def evaluate_network(
        self,
        network: nn.Module,
        datamodule: LightningDataModule,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Measure ``network``, which is this module's or a compressed one, on held-out data."""

    def data_facts(self, datamodule: LightningDataModule, limit: int | None = None) -> dict[str, Any]:
        """What the held-out data is: ``description``, ``windows``, ``tokens``, ``bytes``, ``sha256``."""

    def calibration_batches(self, datamodule: LightningDataModule) -> Iterable[Mapping[str, Tensor]]:
        """Inputs to gather second moments over; the same at each call."""

    def refinement_windows(self, datamodule: LightningDataModule, count: int) -> Tensor:
        """``count`` windows of training data at most, ``[n, length]``; the same at each call."""

    def samples(
        self, network: nn.Module, datamodule: LightningDataModule, prompts: Sequence[str]
    ) -> list[tuple[str, str]]:
        """Prompts and what ``network`` makes of them, for a reader."""

    def artifact_files(self) -> dict[str, bytes]:
        """The files that a user needs beside the weights: configuration, tokenizer."""

    def watch(self, network: nn.Module, inputs: Mapping[str, Tensor], wanted: frozenset[str]) -> Outputs:
        """What ``network`` makes of a batch of ``as_batch``, as losses of a distillation compare it.

        Args:
            network: This module's, or another of its kind with the same tokenizer.
            inputs: Its keyword arguments.
            wanted: Parts of ``Outputs``; others may be missing.
        """

    def save_as(self, folder: Path, network: nn.Module, tokenizer: Any = None) -> None:
        """Save another network of this kind, whole or not at all, so that ``successor`` reads it.

        Args:
            folder: Where to.
            network: In the place of this module's.
            tokenizer: This module's own where it is not given.
        """

    def successor(
        self, folder: Path, datamodule: LightningDataModule, limit: int | None = None
    ) -> Compressible:
        """A module of this kind around what ``save_as`` has saved, measured against this one's network.

        Args:
            folder: Of ``save_as``.
            datamodule: With the held-out data; reads as this module's tokenizer does, before and after the call.
            limit: Of ``evaluate_network``.

        Raises:
            ValueError: If scores of the two could not be compared.
        """


@runtime_checkable
class EvaluatesItems(Protocol):
    """A module that can measure a network on some of its items: a gate then need not wait for all of them."""

    def item_count(self, datamodule: LightningDataModule, limit: int | None = None) -> int | None:
        """Items of every measure of ``evaluate_network``; ``None`` where measures are of different items."""

    def evaluate_items(
        self,
        network: nn.Module,
        datamodule: LightningDataModule,
        items: Sequence[int],
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """``evaluate_network`` on these items, in their order.

        Args:
            network: This module's, or a compressed one.
            datamodule: With the held-out data.
            items: Places within what ``evaluate_network`` measures, from 0.
            limit: Of ``evaluate_network``.
            progress: Called with the items done so far.
        """


@runtime_checkable
class ShowsPictures(Protocol):
    """A module whose network reads pictures: a cascade asks it for some that a reader can look at."""

    def pictures(
        self,
        network: nn.Module,
        reference: Any,
        datamodule: LightningDataModule,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> PictureComparison | None:
        """What ``network`` and the reference make of the same held-out pictures.

        Args:
            network: This module's, or a compressed one.
            reference: The module whose network was there before; this one, or one that it is a successor of.
            datamodule: With the held-out data, read as this module's network reads it.
            limit: Of ``evaluate_network``.
            progress: Called with the pictures seen so far, over both networks.

        Returns:
            ``None`` where there is nothing to compare.
        """


def introduce(datamodule: Any, module: Any) -> None:
    """Let data be read as a module's network reads it: by its adapter, or by its tokenizer."""
    for attribute, use in (("adapter", "use_adapter"), ("tokenizer", "use_tokenizer")):
        found = getattr(module, attribute, None)
        if found is not None and hasattr(datamodule, use):
            getattr(datamodule, use)(found)
            return
