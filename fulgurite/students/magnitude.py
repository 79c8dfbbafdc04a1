"""Importance from the weights alone: no batches, and a baseline for what is measured on some.

    every weight^2 -> added to each part that it belongs to -> sqrt

The norm of all coupled weights: Ma et al., "LLM-Pruner", https://arxiv.org/abs/2305.11627, has it as
the baseline "L2".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fulgurite.students.families import block_number, family_of, head_width, key_value_heads
from fulgurite.students.importance import Importance, importance_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def magnitude_importance(network: PreTrainedModel) -> Importance:
    """Root of the sum of squares of the weights of each part.

    A head has its share of the key-value head that it uses. Norms have no statistics, so a student of fewer
    channels gets theirs as they are.

    Args:
        network: Of a known family.

    Returns:
        Float32 on the CPU.

    Raises:
        ValueError: If the family is unknown, or the network has parameters that its family has not.
    """
    family, config = family_of(network), network.config
    squares = {name: torch.zeros(shape) for name, shape in importance_sizes(config).items()}
    heads, width = int(config.num_attention_heads), head_width(config)
    shared = heads // key_value_heads(config)

    def add(axis: str, block: int | None, sums: Tensor) -> None:
        if axis == "hidden":
            squares["hidden"] += sums
        if block is None:
            return
        if axis == "stacked":
            for part, channels in zip(("query", "key", "value"), sums.view(3, -1), strict=True):
                add(part, block, channels)
        elif axis == "neuron":
            squares["neurons"][block] += sums
        elif axis in ("query", "key", "value", "context"):
            if axis in ("key", "value"):
                sums = sums.view(-1, width).repeat_interleave(shared, 0).flatten() / shared
            squares["queries" if axis in ("query", "key") else "values"][block] += sums
            squares["heads"][block] += sums.view(heads, width).sum(-1)

    for name, parameter in network.named_parameters():
        square = parameter.detach().float().square().cpu()
        block = block_number(name)
        if block is not None:
            squares["layers"][block] += square.sum()
        for dimension, axis in enumerate(family.axes_of(name)):
            others = [other for other in range(square.dim()) if other != dimension]
            add(axis, block, square.sum(others) if others else square)
    scores = {name: summed.sqrt() for name, summed in squares.items()}
    return Importance(**scores, norms={})
