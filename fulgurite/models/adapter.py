r"""How to call an image-text network, whichever library it comes from.

    pictures -> pixels [n, 3, h, w] -\                       /-> image vectors [n, d]
                                      adapter over network -<
    texts    -> tokens [n, t] -------/                       \-> text vectors [n, d] | logits of captions

A network stays what its library made it: an adapter holds no weights, so one adapter serves a reference and all
that is made of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Resize = Literal["shortest", "longest", "squash"]
"""What becomes of a picture that is not square: cut, padded, or pressed into a square."""


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become pixels.

    Args:
        size: Height and width that the network reads.
        mean: Of each channel, subtracted from values in [0, 1].
        std: Of each channel, divided by.
        interpolation: Of the resizing.
        resize: ``shortest`` resizes the shorter side and cuts the middle out; ``longest`` the longer one and pads;
            ``squash`` both.
        fill: Colour, 0 to 255, of padding and behind transparent pictures.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Resize = "shortest"
    fill: int = 0


class ImageTextAdapter(ABC):
    """The calls of one kind of image-text network.

    Args:
        images: How pictures become pixels.
    """

    kind: ClassVar[str]
    """Such as ``open_clip``; what messages call it."""
    has_vectors: ClassVar[bool] = True
    """Whether pictures and texts have vectors in one space, as zero-shot classification and retrieval need."""
    writes_captions: ClassVar[bool] = False
    """Whether the network writes captions."""
    matches: ClassVar[bool] = False
    """Whether the network scores a picture and a text together."""

    def __init__(self, images: ImageSettings) -> None:
        self.images = images

    @property
    @abstractmethod
    def pad_token(self) -> int:
        """What rows of tokens are padded with."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Tokens of a text at most, the special ones included."""

    @property
    def transformers_tokenizer(self) -> Any | None:
        """The tokenizer, one of transformers; ``None`` where the library has one of its own."""
        return getattr(self, "tokenizer", None)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens with the special ones around them, cut and padded at the end, ``int64 [n, t]``.

        ``t`` is ``context_length`` where the network wants that, else the longest text's.
        """

    @abstractmethod
    def decode(self, tokens: Tensor) -> list[str]:
        """Texts of rows of tokens, without the special ones."""

    @abstractmethod
    def batch(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of ``network(...)`` for pictures and as many texts."""

    def read_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Which positions of the texts of ``batch`` the network's outputs depend on, ``[n, t]``; ``None`` for all."""
        return batch.get("attention_mask")

    def image_vectors(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Vectors of length 1 of pictures, float32 ``[n, d]``; with gradients where they are on."""
        raise TypeError(f"{self.kind} has no vectors of pictures")

    def text_vectors(self, network: nn.Module, tokens: Tensor) -> Tensor:
        """Vectors of length 1 of texts, float32 ``[n, d]``; with gradients where they are on."""
        raise TypeError(f"{self.kind} has no vectors of texts")

    def vectors_of(self, output: Any) -> tuple[Tensor, Tensor]:
        """Image and text vectors of length 1 from what ``network(**batch)`` gave, ``[n, d]`` each."""
        raise TypeError(f"{self.kind} has no vectors")

    def scale_and_bias(self, network: nn.Module) -> tuple[Tensor, Tensor | None]:
        """What cosines are multiplied with, and what is then added (SigLIP); scalars with gradients."""
        raise TypeError(f"{self.kind} has no scale of its cosines")

    def generate(
        self, network: nn.Module, pixels: Tensor, *, num_beams: int = 3, max_new_tokens: int = 30
    ) -> list[str]:
        """Captions of pictures."""
        raise TypeError(f"{self.kind} writes no captions")

    def match(self, network: nn.Module, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits ``[n, 2]``, no match first, of pictures and as many texts."""
        raise TypeError(f"{self.kind} does not match pictures with texts")

    @abstractmethod
    def towers(self, network: nn.Module) -> Mapping[str, str]:
        """Part of each parameter: ``image``, ``text``, ``fusion``, ``decoder`` or ``joint`` by parameter name."""

    @abstractmethod
    def files(self, network: nn.Module) -> dict[str, bytes]:
        """What an artefact of the network needs beside the weights, by file name."""

    @abstractmethod
    def save(self, network: nn.Module, folder: Path) -> None:
        """Save a network, whole or not at all, so that ``load_image_text`` and its own library read it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.images!r})"


def until_end(tokens: Tensor, pad_token: int) -> Tensor:
    """Positions up to the end of each text, ``[n, t]``; where the end's own token pads too, the first of them counts.

    Example:
        >>> until_end(torch.tensor([[5, 7, 9, 0, 0], [5, 7, 0, 0, 0]]), 0).int().tolist()
        [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(tokens != pad_token, places, -1).amax(1, keepdim=True)
    return places <= last + 1
