r"""Where the heads of a network's attention lie in its weights.

    q_proj, k_proj, v_proj, o_proj   Llama, Qwen, CLIP, SigLIP, ...   -\
    query, key, value, output.dense  BERT, BLIP's text                 -> Attention: rows and columns of each head
    qkv, projection;  c_attn, c_proj BLIP's vision; GPT-2              -/
    in_proj_weight, out_proj         nn.MultiheadAttention, open_clip

Blocks are known by the names of their parts, not by classes: most families share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Projection:
    """Some outputs of a linear layer.

    Args:
        weight: ``[out, in]``, or ``[in, out]`` where ``transposed``.
        bias: ``[out]``, where the layer has one.
        first: The first of the outputs.
        count: How many.
        transposed: Whether the layer is transformers' ``Conv1D``.
    """

    weight: Tensor
    bias: Tensor | None
    first: int
    count: int
    transposed: bool = False

    @property
    def rows(self) -> Tensor:
        """A view of the weight, ``[count, in]``."""
        whole = self.weight.T if self.transposed else self.weight
        return whole[self.first : self.first + self.count]

    @property
    def shift(self) -> Tensor | None:
        """A view of the bias, ``[count]``."""
        return None if self.bias is None else self.bias[self.first : self.first + self.count]


@dataclass(frozen=True)
class Attention:
    """A block of attention.

    Args:
        name: Of its module.
        head_dim: Channels of a head.
        query: ``[heads * head_dim, hidden]``.
        key: ``[key_value_heads * head_dim, hidden]``.
        value: As ``key``.
        output: Reads the heads' contexts, ``[hidden, heads * head_dim]``.
        between: What happens to queries and keys before they are multiplied, if anything does.
    """

    name: str
    head_dim: int
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    between: str = ""

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values; each serves as many heads of queries as any other."""
        return self.key.count // self.head_dim

    @property
    def group(self) -> int:
        """Heads of queries that share keys and values."""
        return self.query.count // self.key.count


def attentions_of(network: nn.Module) -> list[Attention]:
    """Every block of attention whose parts are known, in the order of the network's modules."""
    rotary = any("Rotary" in type(module).__name__ for module in network.modules())
    found = (_attention(name, module, rotary) for name, module in network.named_modules())
    return [each for each in found if each is not None]


def _attention(name: str, module: Any, rotary: bool) -> Attention | None:
    parts = _parts(module)
    if parts is None:
        return None
    owner = getattr(module, "self", module)
    head_dim = getattr(owner, "head_dim", None) or getattr(owner, "attention_head_size", None)
    query, key, value, output = parts
    if not isinstance(head_dim, int):
        return None
    fits = (
        key.count == value.count
        and query.count % key.count == 0
        and key.count % head_dim == 0
        and output.rows.shape[1] == query.count
    )
    if not fits:
        return None
    between = "normalised" if hasattr(owner, "q_norm") else "rotated by their position" if rotary else ""
    return Attention(name, head_dim, query, key, value, output, between)


def _parts(module: Any) -> tuple[Projection, Projection, Projection, Projection] | None:
    """Queries, keys, values and output of a module, if it is attention."""
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is None or module.bias_k is not None:
            return None
        return (*_thirds(module.in_proj_weight, module.in_proj_bias), _of(module.out_proj))
    if hasattr(module, "self") and hasattr(getattr(module, "output", None), "dense"):
        layers = [getattr(module.self, part, None) for part in ("query", "key", "value")]
        layers.append(module.output.dense)
        return _all(layers)
    for fused, out in (("qkv", "projection"), ("qkv", "proj"), ("c_attn", "c_proj")):
        layer, last = getattr(module, fused, None), getattr(module, out, None)
        if layer is not None and last is not None:
            whole, end = _linear(layer), _linear(last)
            if whole is None or end is None or whole.count % 3:
                return None
            return (*_thirds(whole.weight, whole.bias, whole.transposed), end)
    out = next((part for part in ("o_proj", "out_proj") if hasattr(module, part)), "")
    return _all([getattr(module, part, None) for part in ("q_proj", "k_proj", "v_proj", out) if part])


def _all(layers: list[Any]) -> tuple[Projection, Projection, Projection, Projection] | None:
    found = [each for layer in layers if (each := _linear(layer)) is not None]
    return (found[0], found[1], found[2], found[3]) if len(found) == 4 else None


def _linear(layer: Any) -> Projection | None:
    known = isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
    return _of(layer) if known else None


def _of(layer: Any) -> Projection:
    transposed = type(layer).__name__ == "Conv1D"
    return Projection(layer.weight, layer.bias, 0, layer.weight.shape[1 if transposed else 0], transposed)


def _thirds(
    weight: Tensor, bias: Tensor | None, transposed: bool = False
) -> tuple[Projection, Projection, Projection]:
    count = weight.shape[1 if transposed else 0] // 3
    query, key, value = (Projection(weight, bias, place * count, count, transposed) for place in range(3))
    return query, key, value
