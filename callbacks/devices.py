"""Where the networks of a run compute: whole on the device of each rank, or shared out over the devices of all.

    OneDevice:   rank 0 works, the others wait for it
    AllDevices:  rank 0 works and calls a network -> rows of its inputs to each rank -> all call their parts of it
                 together -> outputs to rank 0;  the other ranks follow until rank 0's work is done

What rank 0 does with a network, such as scoring it, need not know which of the two it is.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from torch import Tensor, distributed, nn
from torch.utils import _pytree as pytree
from typing_extensions import override

from callbacks.stages.repair import RepairStage
from callbacks.stages.stage import Stage
from callbacks.stages.structure import StructuralStage
from fulgurite.allocation import Probe
from fulgurite.artifact.loading import load
from fulgurite.artifact.reader import Artifact
from lightning_modules.language_compression import LanguageCompression
from lightning_modules.sharded import Sharded, spread, write_parameter

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

    def everywhere(self, source: Source) -> Any:
        """A network that each rank calls with inputs of its own, in step where that is asked for; all ranks call."""


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
        return _half_of_free(self.home)

    def lead(self, work: Callable[[], None]) -> None:
        """Do it, unless another rank is the one to do it."""
        if self._rank == 0:
            work()

    def network(self, source: Source) -> Any:
        """The network itself."""
        return load(source, device=self.home) if isinstance(source, Path) else source

    everywhere = network


@dataclass(frozen=True)
class _Order:
    """What rank 0 tells the others to do: a method of ``AllDevices``, none where they are done, and what to forget."""

    what: str
    given: tuple[Any, ...] = ()
    forget: list[int] = field(default_factory=list)


class AllDevices:
    """Each rank has its parts of a network on its device (FSDP2), and the weights that stages code in its memory.

    Args:
        strategy: Whose processes there are already.
        rank: This process.
        network: The network that stages work on.
    """

    home = torch.device("cpu")
    in_step = True

    def __init__(self, strategy: Sharded, rank: int, network: Callable[[], nn.Module]) -> None:
        self._strategy = strategy
        self._rank, self._ranks = rank, strategy.world_size
        self._network = network
        self._held: dict[int, nn.Module] = {}
        self._count = 0
        self._unused: list[int] = []

    def room(self) -> int | None:
        """Half of what is free on a GPU."""
        return _half_of_free(self._strategy.root_device)

    def lead(self, work: Callable[[], None]) -> None:
        """Do it on rank 0, while the others do their parts of what it calls."""
        if self._rank > 0:
            self._follow()
            return
        try:
            work()
        except ValueError:  # which a run may tell all ranks of: they must not wait for another order
            self._tell("done")
            raise
        self._tell("done")

    def network(self, source: Source) -> Any:
        """The network as one that rank 0 alone calls."""
        number = self._count
        self._count += 1
        folder = source if isinstance(source, Path) else None
        self._tell("hold", number, folder)
        self.hold(number, folder)
        led = LedNetwork(self, number, self._held[number])
        weakref.finalize(led, self._unused.append, number)
        return led

    def everywhere(self, source: Source) -> Any:
        """The network as all ranks call it."""
        if not isinstance(source, Path):
            return spread(source, self._strategy)
        # no process decodes more than a weight at a time: what else the artefact has is the network's own
        return spread(self._network(), self._strategy, Artifact(source).decode)

    # what all ranks do, rank 0 by itself and the others by its order

    def hold(self, number: int, folder: Path | None) -> None:
        """Make a network that later orders know by its number: an artefact's, or that which stages work on."""
        self._held[number] = self.everywhere(folder or self._network())

    def call(self, number: int, inputs: Mapping[str, Any]) -> Any:
        """Call a network with all rows of some inputs; rank 0 gets the outputs.

        Raises:
            ValueError: If tensors differ in how many rows they have.
        """
        counts = {len(value) for value in inputs.values() if isinstance(value, Tensor)}
        if len(counts) != 1:
            raise ValueError(f"a network in parts takes inputs of as many rows each, got {sorted(counts)}")
        rows = counts.pop()
        each = -(-rows // self._ranks)
        # where rows do not suffice for all, the last one is read again
        own = torch.arange(self._rank * each, (self._rank + 1) * each).clamp_max(rows - 1)
        device = self._strategy.root_device
        # tensors of inference mode cannot be changed outside of it, and parts that are put together live on
        with torch.inference_mode(False), torch.no_grad():
            outputs = self._held[number](
                **{
                    name: value.cpu()[own].to(device) if isinstance(value, Tensor) else value
                    for name, value in inputs.items()
                }
                | {"use_cache": False}
            )
            leaves, structure = pytree.tree_flatten(outputs)
            joined = [
                self._joined(leaf, rows) if isinstance(leaf, Tensor) and leaf.shape[:1] == (each,) else leaf
                for leaf in leaves
            ]
        return pytree.tree_unflatten(joined, structure)

    def read(self, number: int, name: str) -> Tensor:
        """A parameter of a network, put together."""
        parameter: Any = self._held[number].get_parameter(name)
        whole: Tensor = parameter.full_tensor()
        return whole.clone()

    def write(self, number: int, name: str, value: Tensor) -> None:
        """Change a parameter of a network."""
        write_parameter(self._held[number].get_parameter(name), value)

    # between ranks

    def tell_and_do(self, what: str, *given: Any) -> Any:
        """Rank 0 has all ranks do something, and does it."""
        self._tell(what, *given)
        return getattr(self, what)(*given)

    def _tell(self, what: str, *given: Any) -> None:
        forget, self._unused[:] = list(self._unused), []
        distributed.broadcast_object_list([_Order(what, given, forget)], src=0)
        self._forget(forget)

    def _follow(self) -> None:
        while True:
            received: list[Any] = [None]
            distributed.broadcast_object_list(received, src=0)
            order: _Order = received[0]
            self._forget(order.forget)
            if order.what == "done":
                return
            getattr(self, order.what)(*order.given)

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            del self._held[number]
        if numbers:
            gc.collect()  # the parts and what puts them together refer to each other

    def _joined(self, own: Tensor, rows: int) -> Tensor:
        """Every rank's rows on rank 0."""
        own = own.contiguous()
        found = [torch.empty_like(own) for _ in range(self._ranks)] if self._rank == 0 else None
        distributed.gather(own, found, dst=0)
        return own if found is None else torch.cat(found)[:rows]


class LedNetwork(nn.Module):
    """A network in parts over all ranks, as rank 0 calls it: with all rows, without a cache or gradients.

    Args:
        devices: That hold it.
        number: By which they know it.
        network: This rank's parts.
    """

    def __init__(self, devices: AllDevices, number: int, network: Any) -> None:
        super().__init__()
        self.network = network
        self._devices = devices
        self._number = number

        # not a method: what asks for the signature sees the network's own, and nothing here refers to itself
        @functools.wraps(network.forward)
        def forward(**inputs: Any) -> Any:
            return devices.tell_and_do("call", number, inputs)

        self.forward = forward

    @property
    def config(self) -> Any:
        """Of the network."""
        return self.network.config

    def get_input_embeddings(self) -> Any:
        """The network's."""
        return self.network.get_input_embeddings()

    def read(self, name: str) -> Tensor:
        """A parameter, whole, by the network's own name for it."""
        whole: Tensor = self._devices.tell_and_do("read", self._number, name)
        return whole

    def write(self, name: str, value: Tensor) -> None:
        """Change a parameter on all ranks."""
        self._devices.tell_and_do("write", self._number, name, value.cpu())


class LedProbe(Probe):
    """A probe of a network in parts."""

    _network: LedNetwork

    @override
    def _read(self, name: str) -> Tensor:
        return self._network.read(name)

    @override
    def _write(self, name: str, value: Tensor) -> None:
        self._network.write(name, value)


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
    for name, stage in stages.items():
        if isinstance(stage, StructuralStage | RepairStage):
            raise ValueError(
                f"{key} takes stages that code weights; cascade.stages.{name} is a {type(stage).__name__}"
            )
        if stage.refine.steps > 0:
            raise ValueError(
                f"{key} cannot refine, which takes a device with room for the whole network; "
                f"expected cascade.stages.{name}.refine.steps 0, got {stage.refine.steps}"
            )
    return AllDevices(strategy, trainer.global_rank, network)


def _half_of_free(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else None
