"""What a method is: a network's folder to a smaller folder, and that folder back to a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from peers.image_network import ImageNetwork
from peers.network import Network
from torch import nn


@dataclass(frozen=True)
class Job:
    """One network to compress in one way.

    Args:
        network: Which.
        source: Folder of the original.
        data: Folder of all data.
        out: Folder for the result, and nothing else.
        settings: The method's own, from its row.
    """

    network: Network
    source: Path
    data: Path
    out: Path
    settings: Mapping[str, Any]

    def auto(self) -> Any:
        """The class of transformers that reads such a network."""
        import transformers

        return getattr(transformers, self.network.auto_class)

    def tokenizer(self) -> Any:
        """The network's tokenizer; ``None`` where it reads no text."""
        from transformers import AutoTokenizer

        return None if isinstance(self.network, ImageNetwork) else AutoTokenizer.from_pretrained(self.source)


class Method(ABC):
    """A way to compress, which runs in a process of its own."""

    name: ClassVar[str]
    title: ClassVar[str]
    environment: ClassVar[str] = "main"
    """Name of the environment with its packages."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide the result, beside torch and transformers."""

    modules: ClassVar[tuple[str, ...]] = ()
    """Imported before the clock starts."""

    link: ClassVar[str] = ""

    @abstractmethod
    def compress(self, job: Job) -> dict[str, float] | None:
        """Read ``job.source``, write ``job.out``.

        Returns:
            Figures that replace those of the worker, or nothing.
        """

    @abstractmethod
    def load(self, job: Job) -> nn.Module:
        """Read ``job.out`` alone: a network whose layers can be called, in eval mode."""

    def label(self, settings: Mapping[str, Any]) -> str:
        """The row's name."""
        return f"{self.title}, {settings['bits']} bits"
