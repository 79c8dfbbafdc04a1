"""A split of pictures: what benchmarks and data loaders read, and how pixels are made.

PictureTable -> store.open -> decode -> fit -> PictureCache -> uint8 [n, 3, h, w] -> normalise -> float32
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images.cache import PictureCache
from datamodules.images.decoding import open_picture
from datamodules.images.kept import kept
from datamodules.images.stores import MemoryStore
from datamodules.images.table import PictureTable
from datamodules.images.transforms import fit, fit_fast, normalise
from fulgurite.models.adapter import ImageSettings

if TYPE_CHECKING:
    from PIL import Image

_FORMAT = "1"  # change when the hash is made of other things
_numbers = itertools.count()  # tells splits that share a cache apart


def make_pixels(data: bytes, images: ImageSettings, fast: bool = False) -> Tensor:
    """Bytes of a picture to uint8 ``[3, h, w]``.

    Args:
        data: Content of the file.
        images: How the network wants it.
        fast: Resize by torchvision; see ``fit_fast``.

    Raises:
        ValueError: If the bytes are no picture.
    """
    picture = open_picture(data, images.fill)
    return fit_fast(picture, images) if fast else fit(picture, images)


class Pictures:
    """Pictures in a fixed order; an ``ImageSplit``.

    Args:
        table: The pictures.
        images: Gives the network's settings, once pixels are asked for.
        cache: Keeps pixels; several splits may share one.
        fast: Resize by torchvision; see ``fit_fast``.
        cache_dir: Folder that ``sha256`` is kept in, by the sizes and times of the files; ``None`` keeps nothing.
        keep_after_s: It is kept where it took longer.
    """

    def __init__(
        self,
        table: PictureTable,
        images: Callable[[], ImageSettings],
        cache: PictureCache,
        fast: bool = False,
        cache_dir: Path | None = None,
        keep_after_s: float = 2.0,
    ) -> None:
        self.table = table
        self._images = images
        self._cache = cache
        self._fast = fast
        self._cache_dir = cache_dir
        self._keep_after_s = keep_after_s
        self._number = next(_numbers)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def description(self) -> str:
        """Where the pictures come from, in a few words."""
        return self.table.description

    @property
    def names(self) -> Sequence[str]:
        """Names of the pictures, all different."""
        return self.table.names

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        """Texts of each picture; of one with a class only, the class's name."""
        return self.table.captions

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each picture, ``[n]``; ``None`` where there are no classes."""
        return self.table.labels

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty where there are none."""
        return self.table.classes

    def texts(self, index: int) -> Sequence[str]:
        """What training reads of a picture: its captions, or templates with its class's name."""
        return self.table.texts(index)

    @cached_property
    def sha256(self) -> str:
        """Hash of pictures, texts and classes, wherever the pictures lie."""
        labels = None if self.labels is None else self.labels.tolist()
        texts = json.dumps([list(self.classes), [list(each) for each in self.captions], labels])
        store = self.table.store
        if self._cache_dir is None or isinstance(store, MemoryStore):  # whose stamp is by sizes alone
            return self._hash()
        asked = (_FORMAT, hashlib.sha256(texts.encode()).hexdigest())
        found: str = kept(self._cache_dir, "sha256", asked, store, self.names, self._hash, self._keep_after_s)
        return found

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps(list(self.classes)).encode())
        for index, name in enumerate(self.names):
            label = None if self.labels is None else int(self.labels[index])
            content = hashlib.sha256(self.table.store.open(name)).hexdigest()
            digest.update(json.dumps([content, list(self.captions[index]), label]).encode())
        return digest.hexdigest()

    @property
    def images(self) -> ImageSettings:
        """How the network wants pictures."""
        return self._images()

    def bytes_pixels(self, indices: Sequence[int]) -> Tensor:
        """Pictures resized and cut as the network reads them, uint8 ``[n, 3, h, w]``.

        Raises:
            ValueError: If a picture cannot be decoded.
        """
        images = self.images
        if not len(indices):
            return torch.empty(0, 3, *images.size, dtype=torch.uint8)
        return torch.stack([self._of(int(index), images) for index in indices])

    def _of(self, index: int, images: ImageSettings) -> Tensor:
        name = self.table.names[index]

        def make() -> Tensor:
            try:
                return make_pixels(self.table.store.open(name), images, self._fast)
            except ValueError as error:
                raise ValueError(
                    f"{self.table.store.path}: {name} cannot be decoded ({error}); "
                    "check: decode finds such pictures beforehand"
                ) from error

        return self._cache.get((self._number, index), make)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Pictures as the network reads them, float32 ``[n, 3, h, w]``."""
        return normalise(self.bytes_pixels(indices), self.images)

    def picture(self, index: int) -> Image.Image:
        """A picture for a reader, upright, in RGB and in its own size; transparency on white."""
        return open_picture(self.table.store.open(self.table.names[index]), fill=255)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        images = self.images
        state["_images"] = _Always(images)  # a data module is not sent to workers
        return state


class _Always:
    """Gives one value; can be pickled, unlike a lambda."""

    def __init__(self, images: ImageSettings) -> None:
        self._value = images

    def __call__(self) -> ImageSettings:
        return self._value
