"""The network that a cascade's stages work on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.delta_base import DeltaBase
from fulgurite.models import tied_names, unique_parameters
from lightning_modules.compressible import Compressible


@dataclass(frozen=True)
class Subject:
    """The network that stages work on: the reference, or what a structural stage has made in its place."""

    module: Compressible
    network: Any
    parameters: Mapping[str, Tensor]
    aliases: Mapping[str, str]
    coded: Mapping[str, Tensor]
    """What stages code: the parameters, or what they have over a base."""
    base: DeltaBase | None = None

    @classmethod
    def of(cls, module: Compressible, device: torch.device) -> Subject:
        """A module's network, frozen, on its device."""
        network = module.network.to(device).eval()
        network.requires_grad_(False)
        parameters = unique_parameters(network)
        return cls(module, network, parameters, tied_names(network), parameters)

    def over(self, base: DeltaBase) -> Subject:
        """The same with only what it has over a base to be coded."""
        return replace(self, coded=base.deltas(self.parameters), base=base)

    def offsets(self, source: Literal["reference", "previous"]) -> Mapping[str, Tensor]:
        """What to add to a decoded weight before it stands in the network that it is coded for; none without a base."""
        if self.base is None:
            return {}
        return self.base.origin if source == "reference" else self.base.weights


def check_finite(parameters: Mapping[str, Tensor]) -> None:
    """Refuse a network with NaN or infinity in it, and say where."""
    for name, weight in parameters.items():
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise ValueError(f"the network's {name} has {bad} NaN or infinite values of {weight.numel()}")


def fingerprint_of(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values of the weights."""
    digest = hashlib.sha256()
    for name, weight in parameters.items():
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
