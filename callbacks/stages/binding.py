"""Codecs that look at all the weights that they are to code before they code one: a shared codebook, for instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from callbacks.stages.metric_file import Metrics
from fulgurite.codecs import Codec


def bind(plan: Mapping[str, Codec], weights: Mapping[str, Tensor], metrics: Metrics) -> dict[str, Codec]:
    """The codec of each weight of a plan after such a look."""
    bound = bind_ladders({name: (codec,) for name, codec in plan.items()}, weights, metrics)
    return {name: bound[codec][name] for name, codec in plan.items()}


def bind_ladders(
    ladders: Mapping[str, Sequence[Codec]], weights: Mapping[str, Tensor], metrics: Metrics
) -> dict[Codec, Mapping[str, Codec]]:
    """Each candidate after a look at all weights that may become it."""
    bound: dict[Codec, Mapping[str, Codec]] = {}
    for codec in dict.fromkeys(codec for ladder in ladders.values() for codec in ladder):
        names = [name for name, ladder in ladders.items() if codec in ladder]
        bound[codec] = codec.bind(
            {name: weights[name] for name in names}, metrics.hessians, metrics.row_weights
        )
    return bound
