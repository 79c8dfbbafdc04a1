"""Weights that stay packed in memory and are decoded each time they are used.

    module.weight -> property -> decode(Encoded over the module's buffers) -> a tensor for this one use

The module keeps its class's forward pass: a subclass is made on the fly whose ``weight`` is a property.
Memory is then the packed bytes plus the largest decoded weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.codecs import Encoded, decode

_STATE = "_fulgurite_packed"
Parts = dict[str, tuple[str, torch.dtype, tuple[int, ...]]]
_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def pack_module_(module: nn.Module, attribute: str, encoded: Encoded, dtype: torch.dtype) -> None:
    """Replace a parameter by its packed form, in place.

    Args:
        module: The module that owns the parameter.
        attribute: The parameter's name in it, such as ``weight``.
        encoded: The packed weight; tied modules are given the same one and share its memory.
        dtype: What the forward pass expects the weight to be.
    """
    module._parameters.pop(attribute)
    parts: dict[str, tuple[str, torch.dtype, tuple[int, ...]]] = {}
    for part, values in encoded.tensors.items():
        # as bytes, which .to(dtype) leaves alone: a scale or codebook that was cast would decode otherwise
        buffer = f"{attribute}_{part}"
        module.register_buffer(buffer, values.contiguous().reshape(-1).view(torch.uint8), persistent=False)
        parts[part] = (buffer, values.dtype, tuple(values.shape))
    # what .to(dtype) does cast is this empty one, and the weight is decoded to it
    module.register_buffer(f"{attribute}_like", torch.empty(0, dtype=dtype), persistent=False)
    state: dict[str, tuple[Encoded, Parts]] = dict(getattr(module, _STATE, {}))
    # the tensors live in the buffers, so that .to(device) moves them
    state[attribute] = (Encoded(encoded.codec, encoded.shape, encoded.dtype, {}, encoded.meta), parts)
    module.__dict__[_STATE] = state
    module.__class__ = _packed_class(_base_class(type(module)), tuple(sorted(state)))


def is_packed(network: nn.Module) -> bool:
    """Whether any weight of the network is packed."""
    return any(_STATE in module.__dict__ for module in network.modules())


def _decoded(module: nn.Module, attribute: str) -> Tensor:
    empty, parts = module.__dict__[_STATE][attribute]
    tensors = {
        part: module.get_buffer(buffer).view(dtype).reshape(shape)
        for part, (buffer, dtype, shape) in parts.items()
    }
    wanted = module.get_buffer(f"{attribute}_like").dtype
    decoded = decode(Encoded(empty.codec, empty.shape, empty.dtype, tensors, empty.meta))
    # as a parameter would be, for torch chooses how it multiplies by memory layout and by whether gradients are
    # wanted even where they are off: so the results are those of the decoded network to the bit
    weight = decoded.to(wanted).contiguous().data
    return weight.requires_grad_(weight.is_floating_point() and not torch.is_grad_enabled())


def _base_class(cls: type[nn.Module]) -> type[nn.Module]:
    base: type[nn.Module] = cls.__dict__.get("_fulgurite_base", cls)
    return base


def _packed_class(base: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    key = (base, attributes)
    if key not in _CLASSES:
        members: dict[str, Any] = {attribute: _property(attribute) for attribute in attributes}
        _CLASSES[key] = type(f"Packed{base.__name__}", (base,), {**members, "_fulgurite_base": base})
    return _CLASSES[key]


def _property(attribute: str) -> property:
    def decoded(module: nn.Module) -> Tensor:
        return _decoded(module, attribute)

    return property(decoded)
