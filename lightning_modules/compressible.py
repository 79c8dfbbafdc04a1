"""What a cascade asks of the module whose network it compresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from fulgurite.evaluation.evaluation import Evaluation


@runtime_checkable
class Compressible(Protocol):
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
