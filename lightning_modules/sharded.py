"""A network that does not fit on one device, shared out over all of them (FSDP2).

    network on each process -> rank 0's weights -> each block's weights cut into as many parts as there are processes
    a block's turn -> all-gather -> forward, backward -> reduce-scatter -> its parts alone again
    end of the fit -> parts -> rank 0 -> the whole network -> export

    network whole in every process's memory -> a copy whose parts are on the devices -> calls that all make together

Reference: ``torch.distributed.fsdp.fully_shard``, which
https://pytorch.org/docs/stable/distributed.fsdp.fully_shard.html describes, through Lightning's
``ModelParallelStrategy``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from typing_extensions import override


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all processes of all nodes, ``trainer.strategy: sharded``.

    Modules that can be sharded call ``shard`` in ``configure_model``: ``LanguageModel`` does.

    Args:
        save_distributed_checkpoint: Each process saves its parts, into a folder. By default rank 0 gathers a file that
            any number of processes, and ``fulgurite checkpoints``, can read.
        settings: Of ``ModelParallelStrategy``: ``process_group_backend``, ``timeout``.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **settings: Any) -> None:
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint, **settings)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_processes * self.num_nodes
        self._tensor_parallel_size = 1
        super().setup_environment()

    @override
    def setup(self, trainer: Trainer) -> None:
        from torch.distributed.tensor import DTensor

        module = self.lightning_module
        assert module is not None
        if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise ValueError(
                f"trainer.strategy: {type(module).__name__} does not share out its network (FSDP2), "
                "each process would train one of its own; expected auto or ddp"
            )
        super().setup(trainer)


StrategyRegistry.register("sharded", Sharded, description="FSDP2 over all processes")


def is_sharded(module: Any) -> bool:
    """Whether a LightningModule's trainer shards its network; for ``compress`` a cascade does."""
    trainer = module._trainer
    if trainer is None or getattr(trainer, "compressing", False):
        return False
    return isinstance(trainer.strategy, Sharded)


def shard(network: nn.Module, strategy: Sharded) -> None:
    """Leave each process its parts of a network's weights, those of rank 0.

    The unit that is gathered is a block: an element of an outermost list of modules. What belongs to no block, such as
    embeddings and the head, is gathered with the network.

    Args:
        network: The same on all processes, but for random weights; changed in place.
        strategy: Whose processes there are already.
    """
    from torch.distributed.fsdp import fully_shard

    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            there = tensor.detach().to(strategy.root_device)
            torch.distributed.broadcast(there, src=0)
            tensor.copy_(there)
    mesh = strategy.device_mesh["data_parallel"]
    for block in blocks_of(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def spread(
    network: nn.Module,
    strategy: Sharded,
    weight: Callable[[str], Tensor] | None = None,
    *,
    trained: bool = False,
) -> nn.Module:
    """A copy of which each process has its parts on its device.

    Whoever calls it needs all other processes to call it at the same time, with inputs of their own. No device ever
    holds more than its parts, one block, and what belongs to no block.

    Args:
        network: With the same weights in the memory of every process; left as it is.
        strategy: Whose processes there are already.
        weight: Gives the copy's parameters by name, one at a time; by default those of the network.
        trained: Whether its parameters have gradients: each process those of its parts, the mean over all.
    """
    from torch.distributed.fsdp import fully_shard

    device = strategy.root_device
    known: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=trained)
        for parameter in network.parameters()
    }
    copy = deepcopy(network, known | {id(buffer): buffer.to(device) for buffer in network.buffers()})
    mesh = strategy.device_mesh["data_parallel"]
    for block in blocks_of(copy):
        fully_shard(block, mesh=mesh)
    # the outermost module too: it is called once, and others may be held beside it
    fully_shard(copy, mesh=mesh, reshard_after_forward=True)
    buffers = list(copy.named_buffers(remove_duplicate=False))  # each is made anew
    copy.to_empty(device=device)
    for name, buffer in buffers:
        copy.get_buffer(name).copy_(buffer)
    wholes = dict(network.named_parameters())
    for name, parameter in copy.named_parameters():
        write_parameter(parameter, wholes[name] if weight is None else weight(name))
    return copy.eval()


@torch.no_grad()
def write_parameter(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter of ``spread``'s network another value.

    Args:
        parameter: Of which this process has its part.
        value: Whole, the same in every process.
    """
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    own, mesh = parameter.to_local(), parameter.device_mesh
    if own.numel():  # of a weight with fewer rows than there are processes some have none
        own.copy_(value.detach().chunk(mesh.size())[mesh.get_local_rank()])


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The elements with parameters of all outermost lists of modules."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += blocks_of(child)
    return found


def whole(network: Any, rank: int) -> Any:
    """A sharded network of transformers as one that is not, on the CPU of rank 0; ``None`` on the others.

    Args:
        network: As ``shard`` left it; all processes must call.
        rank: This process.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import FSDPModule

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(network, options=options)
    if rank:
        return None
    # ``fully_shard`` puts classes of its own before that of the network
    own: Any = next(kind for kind in type(network).__mro__ if not issubclass(kind, FSDPModule))
    plain = own(network.config)
    plain.to(network.dtype).load_state_dict(state)
    return plain.train(network.training)
