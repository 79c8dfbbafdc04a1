"""Which indices of the teacher's axes a student keeps, and by what they are multiplied.

A head that becomes narrower keeps its best channels, those of queries and keys together and those of values and
contexts together. A head that becomes wider, where the configuration leaves no choice (heads of ``hidden_size / heads``
channels, and fewer of them), is filled with keys and values of heads that are dropped, best first, but with queries and
outputs of zero: the filling changes nothing, and as its keys and values are not zero too, training can use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fulgurite.students.families import Axis, attention_scale, head_width, key_value_heads

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from fulgurite.students.importance import Importance


class Kept(NamedTuple):
    """Indices of one axis, and the factors of what lies there where they are not all 1."""

    indices: Tensor
    factor: Tensor | None = None


def best(scores: Tensor, count: int) -> Tensor:
    """Indices of the largest scores in their own order; of equal ones the first.

    Example:
        >>> best(torch.tensor([3.0, 1.0, 2.0, 3.0]), 2)
        tensor([0, 3])
    """
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def block_axes(
    importance: Importance, layer: int, config: PreTrainedConfig, student: PreTrainedConfig, block: int
) -> Mapping[Axis, Kept]:
    """Axes of one block.

    Args:
        importance: Of the teacher.
        layer: The teacher's block.
        config: The teacher's.
        student: The student's configuration.
        block: The student's block.
    """
    widths, wanted = head_width(config), head_width(student)
    groups = _best_heads(importance.heads[layer], config, student)
    heads = groups.flatten()
    shared = int(config.num_attention_heads) // key_value_heads(config)
    if wanted == widths:
        queries = values = _channels(heads, widths)
        keys = _channels(groups[:, 0] // shared, widths)
        key = value = Kept(keys)
        alive = torch.ones(len(queries))
    else:
        # such families have no fewer key-value heads than heads, so both have the same channels
        fit = _narrowed if wanted < widths else _widened
        queries, alive = fit(importance.queries[layer], importance.heads[layer], heads, widths, wanted)
        values, _ = fit(importance.values[layer], importance.heads[layer], heads, widths, wanted)
        key, value = Kept(queries), Kept(values)
    # what the student's attention multiplies products with by itself, the queries must have the less
    rescaled = alive * (attention_scale(config, layer) / attention_scale(student, block))
    query = Kept(queries, None if bool((rescaled == 1).all()) else rescaled)
    context = Kept(values, None if bool((alive == 1).all()) else alive)
    return {
        "query": query,
        "key": key,
        "value": value,
        "context": context,
        "stacked": _stacked([query, key, value], int(config.num_attention_heads) * widths),
    }


def _best_heads(scores: Tensor, config: PreTrainedConfig, student: PreTrainedConfig) -> Tensor:
    """Heads to keep ``[key_value_heads, heads of each]``: the groups whose best heads do most, and these heads."""
    groups = scores.view(key_value_heads(config), -1)
    size = int(student.num_attention_heads) // key_value_heads(student)
    totals = groups.sort(dim=-1, descending=True).values[:, :size].sum(-1)
    chosen = best(totals, key_value_heads(student))
    return torch.stack([best(groups[group], size) + group * groups.shape[1] for group in chosen])


def _channels(heads: Tensor, width: int) -> Tensor:
    """Indices of all channels of some heads."""
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _narrowed(
    scores: Tensor, of_heads: Tensor, heads: Tensor, width: int, wanted: int
) -> tuple[Tensor, Tensor]:
    """The best channels of each head."""
    index = torch.cat(
        [best(scores[head * width : (head + 1) * width], wanted) + head * width for head in heads]
    )
    return index, torch.ones(len(index))


def _widened(
    scores: Tensor, of_heads: Tensor, heads: Tensor, width: int, wanted: int
) -> tuple[Tensor, Tensor]:
    """Each head's channels, then some of dropped heads that count nothing yet.

    There are enough: as many heads as ``hidden_size / width`` go into the teacher, and the student is no larger.
    """
    by_rank = of_heads.argsort(descending=True, stable=True)
    dropped = _channels(by_rank[~torch.isin(by_rank, heads)], width)
    fillings = dropped[: len(heads) * (wanted - width)].view(len(heads), -1)
    index = torch.cat([_channels(heads, width).view(len(heads), -1), fillings], 1)
    alive = torch.cat([torch.ones(len(heads), width), torch.zeros(fillings.shape)], 1)
    return index.flatten(), alive.flatten()


def _stacked(parts: Sequence[Kept], width: int) -> Kept:
    """Axes one after the other, each ``width`` long in the teacher."""
    index = torch.cat([part.indices + number * width for number, part in enumerate(parts)])
    if all(part.factor is None for part in parts):
        return Kept(index)
    factors = [torch.ones(len(part.indices)) if part.factor is None else part.factor for part in parts]
    return Kept(index, torch.cat(factors))
