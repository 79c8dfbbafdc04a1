r"""Attention whose weights no layer's call multiplies with, opened up for hooks.

    nn.MultiheadAttention, AttentionPool2d -> F.multi_head_attention_forward(x, in_proj_weight, ...)
                                                        | intercepted
    q, k, v = layer of in_proj_weight(x) -> attention -> layer of out_proj_weight -> the same output

``nn.MultiheadAttention`` hands its weights to a function, so that hooks on its layers are never called and its fused
``in_proj_weight`` belongs to no layer at all. While a network is open, that function goes through layers that hold the
same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override


def fused_layers(network: nn.Module) -> list[nn.Linear]:
    """A layer around each fused projection to queries, keys and values, which has none of its own."""
    fused = [
        module.in_proj_weight
        for module in network.modules()
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    ]
    return [_around(weight) for weight in dict.fromkeys(fused)]


@contextmanager
def opened(layers: Mapping[Tensor, nn.Module]) -> Iterator[None]:
    """Let attention multiply with weights through these layers, so that their hooks see it.

    Args:
        layers: The layer to call for each weight; other weights are multiplied with as they are.
    """
    with _Opened(layers):
        yield


class _Opened(TorchFunctionMode):
    def __init__(self, layers: Mapping[Tensor, nn.Module]) -> None:
        super().__init__()
        self._layers = layers

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.multi_head_attention_forward:
            call = _Call(*args, **(kwargs or {}))
            if call.plain:
                return call.run(self._linear), None
        return func(*args, **(kwargs or {}))

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self._layers.get(weight)
        if layer is None:
            return functional.linear(inputs, weight, bias)
        made: Tensor = layer(inputs)
        own = layer.bias  # in attention pooling the biases of three layers are one argument
        return made if bias is None or isinstance(own, Tensor) else made + bias


class _Call:
    """The arguments of one call of attention; sequences come first, then the batch."""

    def __init__(  # the order of ``F.multi_head_attention_forward``
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        q_proj_weight: Tensor | None = None,
        k_proj_weight: Tensor | None = None,
        v_proj_weight: Tensor | None = None,
        static_k: Tensor | None = None,
        static_v: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> None:
        self.query, self.key, self.value = query, key, value
        self.heads = num_heads
        self.fused, self.bias = in_proj_weight, in_proj_bias
        self.separate = (q_proj_weight, k_proj_weight, v_proj_weight)
        self.out, self.out_bias = out_proj_weight, out_proj_bias
        self.mask = attn_mask
        odd = (bias_k, bias_v, static_k, static_v, key_padding_mask)
        # weights are asked for by default and rarely used; a caller who wants them gets the function itself
        self.plain = (
            not (need_weights or add_zero_attn or use_separate_proj_weight == (in_proj_weight is not None))
            and all(part is None for part in odd)
            and not (training and dropout_p > 0)
            and query.dim() == 3
            and (query is key is value or in_proj_weight is None)
        )

    def run(self, linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Tensor:
        """The output, ``[length, batch, width]``."""
        query, key, value = self._projected(linear)
        batch, length, width = query.shape
        met = functional.scaled_dot_product_attention(
            self._by_head(query), self._by_head(key), self._by_head(value), self._mask(batch, query)
        )
        joined = met.transpose(1, 2).reshape(batch, length, width)
        return linear(joined, self.out, self.out_bias).transpose(0, 1)

    def _by_head(self, values: Tensor) -> Tensor:
        """``[batch, length, width]`` as ``[batch, heads, length, width / heads]``."""
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)

    def _projected(
        self, linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``[batch, length, width]`` each: samples first, as hooks take them."""
        if self.fused is not None:
            query, key, value = linear(self.query.transpose(0, 1), self.fused, self.bias).chunk(3, dim=-1)
            return query, key, value
        biases = (None,) * 3 if self.bias is None else self.bias.chunk(3)
        found = [
            linear(inputs.transpose(0, 1), _there(weight), bias)
            for inputs, weight, bias in zip(
                (self.query, self.key, self.value), self.separate, biases, strict=True
            )
        ]
        return found[0], found[1], found[2]

    def _mask(self, batch: int, like: Tensor) -> Tensor | None:
        """What is added to products of queries and keys; true in a boolean mask of attention is *not allowed*."""
        mask = self.mask
        if mask is None:
            return None
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
        return mask if mask.dim() == 2 else mask.reshape(batch, self.heads, *mask.shape[1:])


def _around(weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    assert isinstance(weight, nn.Parameter)
    layer.weight = weight
    return layer


def _there(weight: Tensor | None) -> Tensor:
    assert weight is not None  # the function itself demands it
    return weight
