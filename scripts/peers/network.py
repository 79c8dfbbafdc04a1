"""What a network is to this benchmark: how it is built, what it is calibrated and judged by.

Runs in the environment of every peer, so it imports torch and transformers and nothing of Fulgurite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

CALIBRATION = 128
"""Items that methods with calibration see: windows of a text, sentences, images."""


@dataclass(frozen=True)
class Network(ABC):
    """A trained network with its data.

    Args:
        name: What the command line calls it.
        title: What the page calls it.
        folder: Below the data folder; ``package:NAME`` where a Python package brings it.
        group_size: Weights that share a scale, for every method that asks for a group.
        shipped: Float types to measure the original in: its own, and 16 bits.
    """

    name: str
    title: str
    folder: str
    group_size: int
    shipped: tuple[str, ...] = ("float32", "float16")
    auto_class: ClassVar[str]
    """The class of transformers that such networks are read by."""
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    how: ClassVar[str]
    """What the score is, in one sentence."""

    @abstractmethod
    def build(self, source: Path, dtype: torch.dtype) -> nn.Module:
        """The original network, in eval mode."""

    def skeleton(self, folder: Path) -> nn.Module:
        """The network in float32 with any weights, made from the configuration in the folder."""
        import transformers

        network: nn.Module = getattr(transformers, self.auto_class).from_config(
            transformers.AutoConfig.from_pretrained(folder)
        )
        return network.eval()

    @abstractmethod
    def calibration(self, source: Path, data: Path) -> list[dict[str, Tensor]]:
        """``CALIBRATION`` items of training data: keyword arguments of the network, one item each."""

    @abstractmethod
    def score(self, network: nn.Module, source: Path, data: Path) -> float:
        """The quality of a float32 network."""

    def layers(self, network: nn.Module) -> dict[str, Tensor]:
        """Weights of all Linear and Conv2d layers by the layer's name; a head tied to the embedding is none."""
        embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
        return {
            name: module.weight.detach()
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and id(module.weight) not in embeddings
        }
