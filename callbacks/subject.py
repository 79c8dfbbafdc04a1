"""The network that a cascade's stages work on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fulgurite.models import tied_names, unique_parameters
from lightning_modules.compressible import Compressible


@dataclass(frozen=True)
class Subject:
    """The network that stages work on: the reference, or what a structural stage has made in its place."""

    module: Compressible
    network: Any
    parameters: Mapping[str, Tensor]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, module: Compressible, device: torch.device) -> Subject:
        """A module's network, frozen, on its device."""
        network = module.network.to(device).eval()
        network.requires_grad_(False)
        return cls(module, network, unique_parameters(network), tied_names(network))


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
