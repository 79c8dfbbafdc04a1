"""What is known of the pictures of a split before any is decoded.

annotations | class folders | shards -> PictureTable -> without broken ones -> some of them
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datamodules.images.stores import PictureStore

logger = logging.getLogger(__name__)
_NAMED = 5  # broken pictures that a message names


@dataclass(frozen=True)
class PictureTable:
    """Pictures in the order of the file, with what belongs to them.

    Args:
        description: Where they come from, in a few words.
        store: Where their bytes are.
        names: Names in the store, all different.
        captions: Texts of each picture, at least one; of a picture with only a class, the class's name.
        labels: Class of each picture, ``[n]``; ``None`` where there are no classes.
        classes: Names of the classes.
        templates: Sentences around a class's name that training reads in place of ``captions``; ``{}`` is the name.
    """

    description: str
    store: PictureStore
    names: Sequence[str]
    captions: Sequence[Sequence[str]]
    labels: NDArray[np.int64] | None = None
    classes: Sequence[str] = ()
    templates: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.names)

    def texts(self, index: int) -> Sequence[str]:
        """What training reads of a picture."""
        if not self.templates or self.labels is None:
            return self.captions[index]
        name = self.classes[int(self.labels[index])]
        return [template.replace("{}", name) for template in self.templates]

    def some(self, indices: Sequence[int], description: str | None = None) -> PictureTable:
        """The pictures at ``indices``, in that order."""
        return replace(
            self,
            description=description or self.description,
            names=[self.names[index] for index in indices],
            captions=[self.captions[index] for index in indices],
            labels=None if self.labels is None else self.labels[np.asarray(indices, np.int64)],
        )

    def without(self, broken: Mapping[str, str], max_broken: float) -> PictureTable:
        """The pictures that are not among the broken ones; these are counted and named in a warning.

        Args:
            broken: Why each of them cannot be used, by name.
            max_broken: Share of the pictures that may be broken.

        Raises:
            ValueError: If more are, or all are.
        """
        if not broken:
            return self
        message = broken_message(self.description, broken, len(self))
        if len(broken) > max_broken * len(self) or len(broken) == len(self):
            raise ValueError(f"{message}; max_broken allows a share of {max_broken:g}")
        logger.warning("%s; they are left out", message)
        return self.some([index for index, name in enumerate(self.names) if name not in broken])

    def hold_out(self, share: float, seed: int) -> tuple[PictureTable, PictureTable]:
        """A seeded part of the pictures to validate on, and the others to train on.

        Returns:
            The others, and the part: at least one picture each.

        Raises:
            ValueError: If there are fewer than two pictures.
        """
        if len(self) < 2:
            raise ValueError(
                f"{self.description}: {len(self)} picture, expected one to train on and one to hold out"
            )
        held = min(max(1, round(share * len(self))), len(self) - 1)
        chosen = set(np.random.default_rng(seed).permutation(len(self))[:held].tolist())
        rest = [index for index in range(len(self)) if index not in chosen]
        part = f"{held} held-out pictures of {self.description}"
        return self.some(rest), self.some(sorted(chosen), part)

    def limited(self, limit: int | None) -> PictureTable:
        """At most ``limit`` pictures, evenly spaced."""
        if limit is None or limit >= len(self):
            return self
        return self.some(evenly_spaced(len(self), limit))


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` of the numbers below ``count``, evenly spaced from 0 on."""
    kept = count if limit is None else min(limit, count)
    return [place * count // kept for place in range(kept)]


def broken_message(where: str, broken: Mapping[str, str], count: int) -> str:
    """How many of ``count`` pictures are broken, and the first of them by name with the reason."""
    first = [f"{name} ({reason})" for name, reason in list(broken.items())[:_NAMED]]
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f"{where}: {len(broken)} of {count} pictures broken or missing: {', '.join(first)}{more}"
