"""A split as a data loader sees it: whole batches, made together.

[(epoch, index)] -> pixels from the cache -> augmentation -> normalise -> batch
                 -> one text of each -> tokens ------------------------>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.images import chance
from datamodules.images.augmentation import Augment, augmented
from datamodules.images.pictures import Pictures
from datamodules.images.tokens import TokenRows
from datamodules.images.transforms import normalise

Batch = dict[str, Tensor]
Item = int | tuple[int, int]
"""Index of a picture, or epoch and index."""


class PictureDataset(Dataset[Batch]):
    """Batches ``pixel_values`` float32 ``[b, 3, h, w]``, ``input_ids`` int64 ``[b, t]``, ``label``, ``index`` ``[b]``.

    Args:
        pictures: The split.
        tokens: Makes tokens of texts.
        seed: Seed of the run.
        augment: How pictures are changed.
        choose: Choose among a picture's texts; else the first of its captions is read.
    """

    def __init__(
        self,
        pictures: Pictures,
        tokens: TokenRows,
        seed: int = 0,
        augment: Augment = "none",
        choose: bool = False,
    ) -> None:
        self.pictures = pictures
        self._tokens = tokens
        self._seed = seed
        self._augment = augment
        self._choose = choose

    def __len__(self) -> int:
        return len(self.pictures)

    def texts(self, epochs: Sequence[int], indices: Sequence[int]) -> list[str]:
        """The text that goes with each picture in its epoch."""
        if not self._choose:
            return [self.pictures.texts(index)[0] for index in indices]
        return chosen_texts(self.pictures, self._seed, epochs, indices, chance.CAPTION)

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of the text of each picture in an epoch, ``[n]``."""
        every = range(len(self))
        return self._tokens.lengths(self.texts([epoch] * len(self), every))

    def learn_texts(self) -> None:
        """Tokenise all texts now, so that not every worker does."""
        table = self.pictures.table
        if table.templates and table.labels is not None:  # all pictures of a class have the same texts
            firsts = np.unique(table.labels, return_index=True)[1].tolist()
        else:
            firsts = range(len(self))
        self._tokens.learn(text for index in firsts for text in self.pictures.texts(index))

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """A whole batch; data loaders call this where it is there."""
        pairs = [(0, item) if isinstance(item, int) else item for item in items]
        epochs, indices = [epoch for epoch, _ in pairs], [index for _, index in pairs]
        labels = self.pictures.labels
        images = self.pictures.images
        pixels = self.pictures.bytes_pixels(indices)
        pixels = augmented(pixels, self._augment, self._seed, epochs, indices, images.fill)
        label = np.full(len(indices), -1, np.int64) if labels is None else labels[indices]
        return {
            "pixel_values": normalise(pixels, images),
            "input_ids": self._tokens(self.texts(epochs, indices)),
            "label": torch.from_numpy(label),
            "index": torch.tensor(indices, dtype=torch.int64),
        }

    @override
    def __getitem__(self, index: Item) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


def chosen_texts(
    pictures: Pictures, seed: int, epochs: Sequence[int], indices: Sequence[int], use: int
) -> list[str]:
    """One of each picture's texts, as seed, epoch and index say."""
    texts = [pictures.texts(index) for index in indices]
    counts = np.array([len(each) for each in texts], np.int64)
    places = chance.below(chance.draw(seed, epochs, indices, use), counts).tolist() if texts else []
    return [each[place] for each, place in zip(texts, places, strict=True)]


def as_made(batch: Any) -> Any:
    """``collate_fn`` of batches that come whole."""
    return batch
