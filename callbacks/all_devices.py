"""A network in parts over the devices of all ranks (FSDP2), which rank 0 alone seems to call, and to train.

    call:   rank 0: inputs -> rows to each rank -> all call their parts together -> outputs to rank 0
    train:  weights -> parts to each rank -> call -> loss on rank 0 -> gradients of rows to each rank
            -> all backward together -> gradients of parts -> gradients of the weights on rank 0

Whatever rank 0 does is an order that the others follow, until it is done. They hold no more of its work than that.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from typing_extensions import override

from callbacks.interrupt import RunStopped, StoppedAtOnce
from callbacks.rank_work import own_work
from fulgurite.allocation import Probe
from fulgurite.artifact.reader import Artifact
from lightning_modules.sharded import Sharded, spread, write_parameter


@dataclass(frozen=True)
class _Order:
    """What rank 0 tells the others: a method of ``AllDevices``, or ``end`` and why; and what to forget."""

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
        self._graphs: dict[int, Tensor] = {}
        self._count = 0
        self._unused: list[int] = []

    def room(self) -> int | None:
        """Half of what is free on a GPU."""
        return half_of_free(self._strategy.root_device)

    def lead(self, work: Callable[[], None]) -> None:
        """Do it on rank 0, while the others do their parts of what it calls."""
        if self._rank > 0:
            with own_work(self._rank):
                failure = self._follow()
            if failure is not None:  # rank 0's, which says so itself
                raise failure
            return
        try:
            work()
        except StoppedAtOnce:  # in the midst of something, maybe, which the others wait for the rest of
            raise
        except (ValueError, RunStopped) as error:
            self.tell("end", error)
            raise
        self.tell("end")

    def network(self, source: Path | nn.Module) -> LedNetwork:
        """The network as one that rank 0 alone calls."""
        assert isinstance(source, Path) or source is self._network(), "the others know no other"
        number = self._told_to_hold("hold", source if isinstance(source, Path) else None)
        return LedNetwork(self, number, self._held[number])

    def reweighted(self, network: nn.Module) -> TrainedNetwork:
        """The network as rank 0 alone trains it."""
        assert network is self._network(), "the others know no other"
        return TrainedNetwork(self, self._told_to_hold("hold_trained"))

    @contextmanager
    def everywhere(self, source: Path | nn.Module) -> Iterator[Any]:
        """The network as all ranks call it."""
        yield self._spread(source)
        gc.collect()

    def _spread(self, source: Path | nn.Module) -> nn.Module:
        if not isinstance(source, Path):
            return spread(source, self._strategy)
        # no process decodes more than a weight at a time: what else the artefact has is the network's own
        return spread(self._network(), self._strategy, Artifact(source).decode)

    # what all ranks do, rank 0 by itself and the others by its order

    def hold(self, number: int, folder: Path | None) -> None:
        """Make a network that later orders know by its number: an artefact's, or that which stages work on."""
        self._held[number] = self._spread(folder or self._network())

    def hold_trained(self, number: int) -> None:
        """Make the network that stages work on one to be trained."""
        self._held[number] = spread(self._network(), self._strategy, trained=True)

    def call(self, number: int, inputs: Mapping[str, Any]) -> Any:
        """Call a network with all rows of some inputs; rank 0 gets the outputs."""
        own, rows = self._own_rows(inputs)
        # tensors of inference mode cannot be changed outside of it, and parts that are put together live on
        with torch.inference_mode(False), torch.no_grad():
            outputs = self._held[number](**own)
            leaves, structure = pytree.tree_flatten(outputs)
            each = self._share_of(rows)
            joined = [
                self._joined(leaf, rows) if isinstance(leaf, Tensor) and leaf.shape[:1] == (each,) else leaf
                for leaf in leaves
            ]
        return pytree.tree_unflatten(joined, structure)

    def forward(self, number: int, inputs: Mapping[str, Any]) -> Tensor:
        """Logits of a network that is trained; what ``backward`` needs is kept. Rank 0 gets those of all rows."""
        own, rows = self._own_rows(inputs)
        with torch.enable_grad():
            logits: Tensor = self._held[number](**own).logits
        self._graphs[number] = logits
        return self._joined(logits.detach(), rows)

    def backward(self, number: int, names: Sequence[str], gradient: Tensor | None = None) -> list[Tensor]:
        """Gradients of some weights, on rank 0, by those of the last logits, which rank 0 has."""
        logits = self._graphs.pop(number)
        # gradients of parts are means over ranks, of which each has rows of its own
        torch.autograd.backward(logits, self._dealt(logits, gradient) * self._ranks)
        found = []
        for name in names:
            parameter: Any = self._held[number].get_parameter(name)
            each = self._share_of(len(parameter))
            # no row of this rank may have come to a weight, such as an expert's
            local = torch.zeros_like(parameter.to_local())
            if parameter.grad is not None:
                local = parameter.grad.to_local()
            padded = functional.pad(local, [*(0, 0) * (local.dim() - 1), 0, each - len(local)])
            found.append(self._joined(padded, len(parameter)).to(self.home))
            parameter.grad = None
        return found

    def take(self, number: int, names: Sequence[str], weights: Sequence[Tensor] = ()) -> None:
        """Give a network other weights, which rank 0 has."""
        for place, name in enumerate(names):
            parameter: Any = self._held[number].get_parameter(name)
            local = parameter.to_local()
            own = local.new_empty(self._share_of(len(parameter)), *local.shape[1:])
            own = self._dealt(own, weights[place] if weights else None)
            with torch.no_grad():
                local.copy_(own[: len(local)])

    def read(self, number: int, name: str) -> Tensor:
        """A parameter of a network, put together."""
        parameter: Any = self._held[number].get_parameter(name)
        whole: Tensor = parameter.full_tensor()
        return whole.clone()

    def write(self, number: int, name: str, value: Tensor) -> None:
        """Change a parameter of a network."""
        write_parameter(self._held[number].get_parameter(name), value)

    # between ranks

    def _told_to_hold(self, what: str, *given: Any) -> int:
        """The number of a network that all ranks make."""
        number = self._count
        self._count += 1
        self.tell_and_do(what, number, *given)
        return number

    def until(self, user: object, number: int) -> None:
        """Forget a network when what uses it is gone; the others with the next order."""
        weakref.finalize(user, self._unused.append, number)

    def tell(self, what: str, *given: Any) -> None:
        """Have the other ranks do something, which rank 0 then does by itself."""
        forget, self._unused[:] = list(self._unused), []
        # a GPU's tensor would be unpacked on that GPU, by all
        given = pytree.tree_map_only(Tensor, Tensor.cpu, given)
        distributed.broadcast_object_list([_Order(what, given, forget)], src=0)
        self._forget(forget)

    def tell_and_do(self, what: str, *given: Any) -> Any:
        """Rank 0 has all ranks do something, and does it."""
        self.tell(what, *given)
        return getattr(self, what)(*given)

    def _follow(self) -> Exception | None:
        """Do what rank 0 says, until it is done; gives what it has failed with."""
        while True:
            received: list[Any] = [None]
            distributed.broadcast_object_list(received, src=0)
            order: _Order = received[0]
            self._forget(order.forget)
            if order.what == "end":
                return next(iter(order.given), None)
            getattr(self, order.what)(*order.given)

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            del self._held[number]
            self._graphs.pop(number, None)
        if numbers:
            gc.collect()  # the parts and what puts them together refer to each other

    def _share_of(self, rows: int) -> int:
        """Rows of each rank: of weights as FSDP2 deals them."""
        return -(-rows // self._ranks)

    def _own_rows(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """This rank's rows of some inputs, and how many there are of all."""
        rows = rows_of(inputs)
        each = self._share_of(rows)
        # where rows do not suffice for all, the last one is read again
        own = torch.arange(self._rank * each, (self._rank + 1) * each).clamp_max(rows - 1)
        device = self._strategy.root_device
        chosen = {
            name: value.cpu()[own].to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        return {**chosen, "use_cache": False}, rows

    def _joined(self, own: Tensor, rows: int) -> Tensor:
        """Every rank's rows on rank 0."""
        own = own.contiguous()
        if self._rank > 0:
            distributed.gather(own, dst=0)
            return own
        found = own.new_empty(self._ranks * len(own), *own.shape[1:])
        distributed.gather(own, list(found.chunk(self._ranks)), dst=0)
        return found[:rows]

    def _dealt(self, like: Tensor, whole: Tensor | None) -> Tensor:
        """This rank's rows of what rank 0 has whole; where rows do not suffice for all, zeros."""
        own = torch.empty_like(like, requires_grad=False)
        parts = None
        if self._rank == 0:
            assert whole is not None
            whole = whole.detach().to(like)
            missing = len(like) * self._ranks - len(whole)
            padded = functional.pad(whole, [*(0, 0) * (whole.dim() - 1), 0, missing])
            parts = [part.contiguous() for part in padded.chunk(self._ranks)]
        distributed.scatter(own, parts, src=0)
        return own


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
        devices.until(self, number)

        # not a method: what asks for the signature sees the network's own, and nothing here refers to itself
        @functools.wraps(network.forward)
        def forward(**inputs: Any) -> Any:
            rows_of(inputs)  # or the others would be told in vain
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


class TrainedNetwork:
    """A network in parts as rank 0 trains it: called with weights that rank 0 has, to which gradients go.

    Args:
        devices: That hold it.
        number: By which they know it.
    """

    def __init__(self, devices: AllDevices, number: int) -> None:
        self._devices = devices
        self._number = number
        devices.until(self, number)

    def __call__(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Any:
        """Outputs with ``logits``; the last ones alone have gradients.

        Args:
            weights: By name.
            inputs: Keyword arguments of the network.
        """
        rows_of(inputs)
        names, values = list(weights), list(weights.values())
        self._devices.tell("take", self._number, names)
        self._devices.take(self._number, names, values)
        if not torch.is_grad_enabled():
            return self._devices.tell_and_do("call", self._number, inputs)
        logits = _Trained.apply(self._devices, self._number, names, inputs, *values)
        return SimpleNamespace(logits=logits)


class _Trained(torch.autograd.Function):
    """The logits of a network in parts as a function of its weights."""

    @staticmethod
    def forward(
        ctx: Any, devices: AllDevices, number: int, names: list[str], inputs: Any, *weights: Tensor
    ) -> Any:
        ctx.devices, ctx.number, ctx.names = devices, number, names
        return devices.tell_and_do("forward", number, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.devices.tell("backward", ctx.number, ctx.names)
        return None, None, None, None, *ctx.devices.backward(ctx.number, ctx.names, gradient)


class LedProbe(Probe):
    """A probe of a network in parts."""

    _network: LedNetwork

    @override
    def _read(self, name: str) -> Tensor:
        return self._network.read(name)

    @override
    def _write(self, name: str, value: Tensor) -> None:
        self._network.write(name, value)


def rows_of(inputs: Mapping[str, Any]) -> int:
    """How many rows all tensors of some inputs have.

    Raises:
        ValueError: If they differ in it, or there is none.
    """
    counts = {len(value) for value in inputs.values() if isinstance(value, Tensor)}
    if len(counts) != 1:
        raise ValueError(f"a network in parts takes inputs of as many rows each, got {sorted(counts)}")
    return counts.pop()


def half_of_free(device: torch.device) -> int | None:
    """Half of the bytes that are free on a GPU; ``None`` for another device."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what PyTorch keeps for later is free too
    return torch.cuda.mem_get_info(device)[0] // 2
