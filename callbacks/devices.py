"""Where the networks of a run compute: whole on the device of each rank, or shared out over the devices of all.

    OneDevice:   rank 0 works, the others wait for it
    AllDevices:  rank 0 works, and the others follow it: each does its part of what rank 0 calls

What rank 0 does with a network, such as scoring it, need not know which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from torch import nn

from callbacks.all_devices import AllDevices, half_of_free
from callbacks.stages.repair import RepairStage
from callbacks.stages.stage import Stage
from callbacks.stages.structure import StructuralStage
from fulgurite.artifact.loading import load
from lightning_modules.language_compression import LanguageCompression
from lightning_modules.refinement import Reweighted, with_weights
from lightning_modules.sharded import Sharded

Source = Path | nn.Module
"""Of a network: the folder of an artefact, or the network that stages work on, which every process has."""


class Devices(Protocol):
    """Where the networks of a run compute."""

    @property
    def home(self) -> torch.device:
        """Where the weights that stages work on lie."""

    @property
    def in_step(self) -> bool:
        """Whether all ranks must make every call of a network together."""

    def room(self) -> int | None:
        """Bytes that calibration may take on this rank's device beside a network; ``None`` for any number."""

    def lead(self, work: Callable[[], None]) -> None:
        """Do ``work`` on rank 0 alone; all ranks call."""

    def network(self, source: Source) -> Any:
        """A network to be called in the work of ``lead``."""

    def reweighted(self, network: nn.Module) -> Reweighted:
        """The network that stages work on, to be called and trained with other weights in the work of ``lead``."""

    def everywhere(self, source: Source) -> AbstractContextManager[Any]:
        """A network that each rank calls with inputs of its own, in step where that is asked for; all ranks enter."""


class OneDevice:
    """Each rank has the whole network on its device.

    Args:
        device: This rank's.
        rank: This process.
    """

    in_step = False

    def __init__(self, device: torch.device, rank: int) -> None:
        self.home = device
        self._rank = rank

    def room(self) -> int | None:
        """Half of what is free on a GPU."""
        return half_of_free(self.home)

    def lead(self, work: Callable[[], None]) -> None:
        """Do it, unless another rank is the one to do it."""
        if self._rank == 0:
            work()

    def network(self, source: Source) -> Any:
        """The network itself."""
        return load(source, device=self.home) if isinstance(source, Path) else source

    def everywhere(self, source: Source) -> AbstractContextManager[Any]:
        """The network itself."""
        return nullcontext(self.network(source))

    def reweighted(self, network: nn.Module) -> Reweighted:
        """A functional call."""
        return partial(with_weights, network)


def devices_of(
    trainer: Trainer,
    module: Any,
    stages: Mapping[str, Stage],
    network: Callable[[], nn.Module],
    *,
    based: bool = False,
) -> Devices:
    """Where the networks of a run compute, by the trainer's strategy.

    Args:
        trainer: Whose processes there are already.
        module: Whose network it is.
        stages: Of the cascade, by name.
        network: The network that stages work on.
        based: Whether what is coded are differences from another network.

    Raises:
        ValueError: If the network is to be in parts, and there is no way to compute with it so.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, Sharded):
        return OneDevice(strategy.root_device, trainer.global_rank)
    key = "trainer.strategy: sharded"
    if based:
        raise ValueError(f"{key} does not code differences; expected no cascade.base")
    if not isinstance(module, LanguageCompression):
        raise ValueError(f"{key} takes a LanguageModel, got a {type(module).__name__}; expected auto or ddp")
    if any(hasattr(parameter, "to_local") for parameter in module.network.parameters()):
        raise ValueError(f"{key}: the network is in parts of a fit; expected one that is loaded for compress")
    for name, stage in stages.items():
        if isinstance(stage, StructuralStage | RepairStage):
            raise ValueError(
                f"{key} takes stages that code weights and refine them; cascade.stages.{name} is a "
                f"{type(stage).__name__}"
            )
    return AllDevices(strategy, trainer.global_rank, network)
