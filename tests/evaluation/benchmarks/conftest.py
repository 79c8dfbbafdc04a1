"""A CLIP of 200 thousand random weights, and pictures in memory to measure it on."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fulgurite.evaluation.benchmarks import View
from fulgurite.models.adapter import ImageSettings, ImageTextAdapter

SIZE = 32  # pixels
WORDS = 5000  # tokens, so many that no two words of the tests share one; the highest ends a text
CONTEXT = 12


def tokenize(texts: Sequence[str]) -> Tensor:
    """A token a word, by its hash."""
    rows = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        words = [1 + zlib.crc32(word.encode()) % (WORDS - 2) for word in text.lower().split()][: CONTEXT - 1]
        row[: len(words) + 1] = torch.tensor([*words, WORDS - 1])
    return rows


class TinyAdapter(ImageTextAdapter):
    """Calls of an open_clip network whose tokens are hashes of words."""

    kind = "tiny"

    def __init__(self) -> None:
        super().__init__(ImageSettings(size=(SIZE, SIZE)))

    @property
    def pad_token(self) -> int:
        return 0

    @property
    def context_length(self) -> int:
        return CONTEXT

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return tokenize(texts)

    def decode(self, tokens: Tensor) -> list[str]:
        raise NotImplementedError

    def batch(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        return {"image": pixels, "text": tokens}

    def image_vectors(self, network: nn.Module, pixels: Tensor) -> Tensor:
        return network.encode_image(pixels, normalize=True)

    def text_vectors(self, network: nn.Module, tokens: Tensor) -> Tensor:
        return network.encode_text(tokens, normalize=True)

    def towers(self, network: nn.Module) -> Mapping[str, str]:
        raise NotImplementedError

    def files(self, network: nn.Module) -> dict[str, bytes]:
        raise NotImplementedError

    def save(self, network: nn.Module, folder: Path) -> None:
        raise NotImplementedError


@dataclass
class Pictures:
    """Random pictures, or vectors that a ``Lookup`` network reads as pictures."""

    captions: Sequence[Sequence[str]]
    classes: Sequence[str] = ()
    labels: NDArray[np.int64] | None = None
    values: Tensor | None = None
    description: str = "pictures in memory"
    sha256: str = "0" * 64
    names: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"{index}.png" for index in range(len(self.captions))]
        if self.values is None:
            seeded = torch.Generator().manual_seed(0)
            self.values = torch.randn(len(self.captions), 3, SIZE, SIZE, generator=seeded)

    def __len__(self) -> int:
        return len(self.captions)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        return self.values[list(indices)]

    def picture(self, index: int) -> Any:
        raise NotImplementedError


class Lookup(nn.Module):
    """Knows the vector of each text, and takes pictures for vectors."""

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.texts = list(vectors)
        self.table = nn.Parameter(torch.stack(list(vectors.values())).float())


class LookupAdapter(TinyAdapter):
    """Calls of a ``Lookup``; tokens are places in its table."""

    kind = "lookup"

    def __init__(self, network: Lookup) -> None:
        super().__init__()
        self._place = {text: index for index, text in enumerate(network.texts)}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[self._place[text]] for text in texts])

    def image_vectors(self, network: nn.Module, pixels: Tensor) -> Tensor:
        return functional.normalize(pixels.flatten(1), dim=1)

    def text_vectors(self, network: nn.Module, tokens: Tensor) -> Tensor:
        return functional.normalize(network.table[tokens[:, 0]], dim=1)


@pytest.fixture
def looked_up() -> Callable[..., View]:
    """A view of given vectors: those of pictures, and those of each text."""

    def view(images: Tensor, texts: Mapping[str, Tensor], captions: Any, **settings: Any) -> View:
        described = {key: settings.pop(key) for key in ("classes", "labels") if key in settings}
        network = Lookup(texts)
        pictures = Pictures(captions, values=images, **described)
        return View(network, LookupAdapter(network), pictures, **settings)

    return view


@pytest.fixture(scope="session")
def clip() -> nn.Module:
    from open_clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIP(
            embed_dim=32,
            vision_cfg={"image_size": SIZE, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
            text_cfg={"context_length": CONTEXT, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 1},
        )


@pytest.fixture
def adapter() -> TinyAdapter:
    return TinyAdapter()


CLASSES = (
    "cat",
    "dog",
    "grey whale",
    "ship",
    "red car",
    "owl",
    "pine tree",
)  # more than five: there is a top-5


@pytest.fixture
def labelled() -> Pictures:
    """70 pictures in uneven classes, sorted by class as folders are."""
    labels = np.repeat(np.arange(7), [22, 16, 12, 8, 6, 4, 2])
    return Pictures([[CLASSES[label]] for label in labels], CLASSES, labels)


@pytest.fixture
def captioned() -> Pictures:
    """20 pictures with one to three captions, all different."""
    return Pictures([[f"picture {i} seen {j}" for j in range(1 + i % 3)] for i in range(20)])
