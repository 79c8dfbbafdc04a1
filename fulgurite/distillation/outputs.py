"""All that losses may see of one pass of a network.

network(**inputs) -> logits | token vectors, hidden states, attention maps     hooks -> values of the last layer
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_VALUES = ("v_proj", "value", "v_lin")
"""Last part of the names of projections to values; a fused projection has none."""


@dataclass(frozen=True)
class TopLogits:
    """The largest logits of each position, and the mass of all, at one temperature.

    Args:
        indices: Of the tokens, integers ``[b, t, k]``.
        log_probability: Of these, of the softmax over all tokens, ``[b, t, k]``.
    """

    indices: Tensor
    log_probability: Tensor

    @classmethod
    def of(cls, logits: Tensor, count: int, temperature: float) -> TopLogits:
        """The ``count`` largest of ``[b, t, V]``."""
        logs = (logits.float() / temperature).log_softmax(-1)
        top = logs.topk(min(count, logits.shape[-1]), dim=-1)
        return cls(top.indices, top.values)


@dataclass(frozen=True)
class Outputs:
    """What a network made of a batch; ``None`` or empty where it makes no such thing or was not asked.

    Args:
        mask: Which positions are text, ``[b, t]``.
        logits: ``[b, t, V]``.
        top: In the place of a teacher's logits.
        vectors: One a text, ``[b, d]``.
        hidden: After the embedding and after each layer, ``[b, t, d]`` each.
        attentions: Maps of each layer, ``[b, h, t, t]``.
        values: Of the last layer, ``[b, t, d_v]``.
    """

    mask: Tensor
    logits: Tensor | None = None
    top: TopLogits | None = None
    vectors: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    values: Tensor | None = None


def observe(
    network: nn.Module, inputs: Mapping[str, Tensor], wanted: Collection[str]
) -> tuple[object, Outputs]:
    """Run a network and keep what losses want of it.

    Args:
        network: Of transformers.
        inputs: Its keyword arguments, with ``input_ids``.
        wanted: Of ``hidden``, ``attentions`` and ``values``.

    Returns:
        The network's own output, and the outputs without ``vectors``.

    Raises:
        ValueError: If the network does not give what is wanted.
    """
    asked = {f"output_{key}": True for key in ("hidden_states", "attentions") if key.split("_")[0] in wanted}
    seen: list[Tensor] = []
    with _values(network, seen) if "values" in wanted else _nothing():
        output = network(**inputs, **asked)
    attentions = tuple(getattr(output, "attentions", None) or ())
    if "attentions" in wanted and (not attentions or attentions[0] is None):
        raise ValueError(
            f"{type(network).__name__} gives no attention maps; they need network.set_attn_implementation('eager')"
        )
    mask = inputs.get("attention_mask")
    return output, Outputs(
        mask=torch.ones_like(inputs["input_ids"]) if mask is None else mask,
        logits=getattr(output, "logits", None),
        hidden=tuple(getattr(output, "hidden_states", None) or ()),
        attentions=attentions,
        values=seen[-1] if seen else None,
    )


@contextmanager
def attention_maps(networks: Iterable[Any]) -> Iterator[None]:
    """Have networks of transformers compute attention in the way that gives its maps; afterwards as before."""
    before = [(network, network.config._attn_implementation) for network in networks]
    try:
        for network, _ in before:
            network.set_attn_implementation("eager")
        yield
    finally:
        for network, implementation in before:
            network.set_attn_implementation(implementation)


@contextmanager
def _values(network: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """Keep what the last projection to values gives."""
    found = [module for name, module in network.named_modules() if name.rpartition(".")[2] in _VALUES]
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no projection named {', '.join(_VALUES)}: no value relations"
        )
    handle = found[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
