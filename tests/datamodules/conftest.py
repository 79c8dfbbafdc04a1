"""Pictures made by the test, and a network's image settings and tokenizer without a network."""

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fulgurite.models.adapter import ImageSettings, ImageTextAdapter


class WordAdapter(ImageTextAdapter):
    """Begin, a number for each word, end; as long as the longest text, or ``width`` wide."""

    kind = "words"

    def __init__(self, images: ImageSettings, width: int | None = None, pad: int = 0) -> None:
        super().__init__(images)
        self._width = width
        self._pad = pad

    @property
    def pad_token(self) -> int:
        return self._pad

    @property
    def context_length(self) -> int:
        return self._width or 16

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        rows = [[1, *self.words(text)[: self.context_length - 2], 2] for text in texts]
        width = self._width or max(map(len, rows), default=0)
        return torch.tensor([row + [self._pad] * (width - len(row)) for row in rows])

    @staticmethod
    def words(text: str) -> list[int]:
        return [3 + zlib.crc32(word.encode()) % 9973 for word in text.split()]

    def decode(self, tokens: Tensor) -> list[str]:
        return [" ".join(map(str, row.tolist())) for row in tokens]

    def batch(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        return {"pixels": pixels, "tokens": tokens}

    def towers(self, network: nn.Module) -> Mapping[str, str]:
        return {}

    def files(self, network: nn.Module) -> dict[str, bytes]:
        return {}

    def save(self, network: nn.Module, folder: Path) -> None:
        raise NotImplementedError


@pytest.fixture
def adapter() -> Callable[..., WordAdapter]:
    """Makes an adapter; 16 pixels and no smoothing of values unless told otherwise."""

    def make(width: int | None = None, pad: int = 0, **images: Any) -> WordAdapter:
        return WordAdapter(ImageSettings(**{"size": (16, 16), **images}), width, pad)

    return make


@pytest.fixture
def photo() -> Callable[..., Image.Image]:
    """Makes a picture with smooth colours and edges, another for each number."""

    def make(number: int = 0, width: int = 40, height: int = 30) -> Image.Image:
        chance = np.random.default_rng(number)
        small = chance.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)

    return make


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """The bytes of a picture's file."""

    def encode(picture: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **settings)
        return file.getvalue()

    return encode
