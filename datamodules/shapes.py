"""Captioned pictures of coloured shapes, made from a seed: data for tests and demonstrations without a file.

seed -> all captions, in a random order -> split among train, validation, test -> pictures drawn in memory
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import override

from datamodules.image_text import ImageTextDataModule
from datamodules.images.drawing import COLOURS, SHAPES, SIZES, Thing, drawn
from datamodules.images.settings import at_least, one_of
from datamodules.images.stores import MemoryStore
from datamodules.images.table import PictureTable

_PLACES = {
    f"{row} {column}".strip(): (x, y)
    for (row, y), (column, x) in itertools.product(
        (("top", 0.22), ("", 0.5), ("bottom", 0.78)), (("left", 0.22), ("", 0.5), ("right", 0.78))
    )
}
_RELATIONS = {  # where the first and the second lie
    "above": ((0.5, 0.26), (0.5, 0.74)),
    "below": ((0.5, 0.74), (0.5, 0.26)),
    "left of": ((0.26, 0.5), (0.74, 0.5)),
    "right of": ((0.74, 0.5), (0.26, 0.5)),
}
_HELD_OUT = 0.1  # share of the captions that validation has to itself, and the same for test
CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
"""What labels stand for."""


class ShapesDataModule(ImageTextDataModule):
    """``synthetic``: pictures of one or two coloured shapes, each with a sentence and a few words that say the same.

    The splits have no caption in common, but all colours, shapes, sizes and places. The label is the colour and
    shape of the one that the caption names first. Leave ``augment`` at ``none``: captions say left and right.

    Args:
        train: Number of train pictures.
        validation: Number of validation pictures; up to 97 of one shape have captions that are all different.
        test: Number of test pictures; the same.
        objects: Shapes in a picture: 1, with its place, or 2, with how they stand to each other; with 2 there are
            46,656 captions less those of two equal shapes, and a picture shows another class beside its label.
        side: Height and width of a picture in pixels.
        common: Settings of ``ImageTextDataModule``.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> ShapesDataModule(train=8).split("train").classes[:2]
        ['red circle', 'red square']
    """

    def __init__(
        self,
        train: int = 1600,
        validation: int = 96,
        test: int = 96,
        objects: Literal[1, 2] = 1,
        side: int = 64,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self._counts = {"train": train, "validation": validation, "test": test}
        at_least(1, **self._counts)
        at_least(8, side=side)
        one_of((1, 2), objects=objects)
        self.objects = objects
        self.side = side

    @override
    def own_splits(self) -> frozenset[str]:
        return frozenset(self._counts)

    @override
    def read_table(self, split: str) -> PictureTable:
        chosen = self._chosen(split)
        number = list(self._counts).index(split)
        scenes = [self._scene(things, where) for things, where in chosen]
        names = [f"{split}/{place:06d}.png" for place in range(len(scenes))]
        files = {
            # each picture has chance of its own: more of them leave those before as they are
            name: drawn(list(zip(things, centres, strict=True)), self.side, self._chance(1 + number, place))
            for place, (name, (things, centres, _)) in enumerate(zip(names, scenes, strict=True))
        }
        labels = np.array([CLASSES.index(things[0].name) for things, _, _ in scenes], np.int64)
        description = f"{len(names)} {split} pictures of shapes (seed {self.seed})"
        store = MemoryStore(Path("shapes"), files)
        return PictureTable(description, store, names, [texts for _, _, texts in scenes], labels, CLASSES)

    @override
    def _whole(self, split: str) -> PictureTable:
        return self.read_table(split)  # there is nothing to check

    def _chance(self, *of: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *of])

    def _chosen(self, split: str) -> list[tuple[tuple[Thing, ...], str]]:
        """What the pictures of a split show, each caption as often as the others."""
        things = [Thing(*words) for words in itertools.product(SIZES, COLOURS, SHAPES)]
        scenes: list[tuple[tuple[Thing, ...], str]]
        if self.objects == 1:
            scenes = [((thing,), place) for thing, place in itertools.product(things, _PLACES)]
        else:
            pairs = [pair for pair in itertools.product(things, things) if pair[0].name != pair[1].name]
            scenes = [(pair, relation) for pair, relation in itertools.product(pairs, _RELATIONS)]
        order = self._chance(0).permutation(len(scenes))
        held = round(_HELD_OUT * len(scenes))
        parts = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
        places = np.resize(parts[split], self._counts[split])  # goes round where there are more pictures
        return [scenes[place] for place in places.tolist()]

    def _scene(
        self, things: tuple[Thing, ...], where: str
    ) -> tuple[tuple[Thing, ...], tuple[tuple[float, float], ...], list[str]]:
        """Shapes, their centres, and captions."""
        if self.objects == 1:
            place = f"at the {where}" if where else "in the middle"
            return things, (_PLACES[where],), [f"a {things[0]} {place}", f"{things[0]}, {where or 'middle'}"]
        first, second = things
        texts = [f"a {first} {where} a {second}", f"{first}, {where} {second}"]
        return things, _RELATIONS[where], texts
