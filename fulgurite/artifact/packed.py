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
    parts = {part: f"{attribute}_{part}" for part in encoded.tensors}
    for part, buffer in parts.items():
        module.register_buffer(buffer, encoded.tensors[part], persistent=False)
    state: dict[str, tuple[Encoded, dict[str, str], torch.dtype]] = dict(getattr(module, _STATE, {}))
    # the tensors live in the buffers, so that .to(device) moves them
    state[attribute] = (Encoded(encoded.codec, encoded.shape, encoded.dtype, {}, encoded.meta), parts, dtype)
    module.__dict__[_STATE] = state
    module.__class__ = _packed_class(_base_class(type(module)), tuple(sorted(state)))


def is_packed(network: nn.Module) -> bool:
    """Whether any weight of the network is packed."""
    return any(_STATE in module.__dict__ for module in network.modules())


def _decoded(module: nn.Module, attribute: str) -> Tensor:
    empty, parts, dtype = module.__dict__[_STATE][attribute]
    tensors = {part: module.get_buffer(buffer) for part, buffer in parts.items()}
    return decode(Encoded(empty.codec, empty.shape, empty.dtype, tensors, empty.meta)).to(dtype)


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
