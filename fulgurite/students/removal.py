"""How much a network's outputs change when a layer is left out.

    batches -> network -> outputs  |  for each layer: network without it -> outputs -> divergence

Costs a forward pass a layer, where block influence costs none more, and asks the question itself: what leaving
the layer out does. The same score with perplexity as the measure: Kim et al., "Shortened LLaMA: Depth Pruning for Large
Language Models with Comparison of Retraining Methods", https://arxiv.org/abs/2402.02834.
Differs from the paper: any divergence from the whole network's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fulgurite.calibration import evaluating
from fulgurite.students._watch import block_input
from fulgurite.students.families import family_of
from fulgurite.students.importance import on_device
from fulgurite.students.losses import Batch, Divergence

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def layer_removal(
    network: PreTrainedModel,
    batches: Iterable[Batch],
    divergence: Divergence,
    *,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The divergence that leaving out each layer alone brings about.

    Args:
        network: Of a known family; runs in eval mode and goes back to the mode it was in.
        batches: Keyword arguments of the network, gone through once.
        divergence: Of outputs from the whole network's; ``logit_divergence`` for language models.
        progress: Called with the number of batches done after each.

    Returns:
        Sums over the batches, float32 ``[layers]`` on the CPU; stands in for ``Importance.layers``.

    Raises:
        ValueError: If the family is unknown or there is no batch.
    """
    blocks: Any = network.get_submodule(family_of(network).blocks)
    total: Tensor | None = None
    done = 0
    with evaluating(network), torch.no_grad():
        for batch in on_device(network, batches):
            reference = network(**batch)
            found = []
            for block in blocks:
                with left_out(block):
                    found.append(divergence(reference, network(**batch), batch).float().cpu())
            total = torch.stack(found) if total is None else total + torch.stack(found)
            done += 1
            if progress is not None:
                progress(done)
    if total is None:
        raise ValueError("importance needs at least one batch, got none")
    return total


@contextmanager
def left_out(block: nn.Module) -> Iterator[None]:
    """Let a block hand on what it gets."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = block_input(args, kwargs)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
