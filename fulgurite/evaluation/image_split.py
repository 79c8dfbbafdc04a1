"""Held-out pictures with their texts, as benchmarks see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@runtime_checkable
class ImageSplit(Protocol):
    """Pictures in a fixed order; data modules make them."""

    @property
    def description(self) -> str:
        """Where the pictures come from, in a few words."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the pictures, all different."""

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        """Texts of each picture, at least one; of a picture with a class and no text, the class's name."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each picture, ``[n]``; ``None`` where there are no classes."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty where there are none."""

    @property
    def sha256(self) -> str:
        """Hash of all that scores depend on: pictures, texts and classes."""

    def __len__(self) -> int: ...

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Pictures as the network reads them, float32 ``[n, 3, h, w]``; the same at each call."""

    def picture(self, index: int) -> Any:
        """A picture for a reader, as a ``PIL.Image`` in RGB."""
