"""What a reader looks at instead of figures, before and after, as plain data; nothing is drawn here.

    two views of one split -> queries with the pictures found, captions, confusion matrices -> PictureComparison -> JSON

Examples are evenly spaced over the split, not chosen by how well they came out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, SupportsInt

import numpy as np

from fulgurite.evaluation.benchmarks.captioning import Captioning
from fulgurite.evaluation.benchmarks.view import View
from fulgurite.evaluation.benchmarks.zero_shot import ZeroShot
from fulgurite.evaluation.scoring import evenly_spaced


@dataclass(frozen=True)
class FoundPicture:
    """A picture that a text found.

    Args:
        index: In the split, for ``ImageSplit.picture``.
        name: Of the picture.
        score: Cosine with the text.
        right: Whether the text is one of the picture's.
    """

    index: int
    name: str
    score: float
    right: bool


@dataclass(frozen=True)
class RetrievedPictures:
    """A text with the pictures that are nearest to it, nearest first; none where the network diverged."""

    text: str
    before: tuple[FoundPicture, ...]
    after: tuple[FoundPicture, ...]


@dataclass(frozen=True)
class WrittenCaptions:
    """A picture with what people and the two networks say of it."""

    index: int
    name: str
    references: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class Confusion:
    """How many pictures of each true class, ``[c][ ]``, are taken for each class, ``[ ][c]``.

    Args:
        classes: Their names.
        before: Of the one network.
        after: Of the other.
        others: How many classes the last row and column stand for; 0 where each class has its own.
    """

    classes: tuple[str, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    others: int = 0

    def narrowed(self, most: int) -> Confusion:
        """The classes whose pictures are taken for others most differently, then most often, and the rest as one.

        Args:
            most: Rows at most, 2 or more; no picture is lost.
        """
        count = len(self.classes) - (self.others > 0)
        if len(self.classes) <= most:
            return self
        matrices = [np.array(side, np.int64) for side in (self.before, self.after)]
        shares = [matrix / np.maximum(matrix.sum(1, keepdims=True), 1) for matrix in matrices]
        changed = np.abs(shares[1] - shares[0]).sum(1)[:count]
        both = shares[0] + shares[1]
        missed = (both.sum(1) - both.diagonal())[:count]
        chosen = np.sort(np.lexsort((-missed, -changed))[: most - 1])
        group = np.full(len(self.classes), most - 1)
        group[chosen] = np.arange(most - 1)
        merged = [np.zeros((most, most), np.int64) for _ in matrices]
        for matrix, target in zip(matrices, merged, strict=True):
            np.add.at(target, (group[:, None], group[None, :]), matrix)
        before, after = (_rows(target) for target in merged)
        others = len(self.classes) - len(chosen) + max(self.others - 1, 0)
        names = (*(self.classes[place] for place in chosen.tolist()), f"{others} others")
        return Confusion(names, before, after, others)


@dataclass(frozen=True)
class PictureComparison:
    """Examples of what two networks make of the same pictures.

    Args:
        description: Of the split.
        retrieved: Texts with the pictures found; none where a network has no vectors.
        captions: None where a network writes none.
        confusion: ``None`` where there are no classes or vectors.
    """

    description: str
    retrieved: tuple[RetrievedPictures, ...]
    captions: tuple[WrittenCaptions, ...]
    confusion: Confusion | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> PictureComparison:
        """Invert ``to_dict``, also after JSON has made lists of tuples.

        Raises:
            KeyError: If a field is missing.
            TypeError: If there is one too many.
        """
        return cls(
            description=record["description"],
            retrieved=tuple(
                RetrievedPictures(
                    each["text"],
                    *(tuple(FoundPicture(**found) for found in each[side]) for side in ("before", "after")),
                )
                for each in record["retrieved"]
            ),
            captions=tuple(
                WrittenCaptions(**{**each, "references": tuple(each["references"])})
                for each in record["captions"]
            ),
            confusion=record["confusion"] and _read_confusion(record["confusion"]),
        )


def compare_views(
    before: View,
    after: View,
    count: int = 6,
    *,
    shown: int = 5,
    most_classes: int = 100,
    zero_shot: ZeroShot | None = None,
    captioning: Captioning | None = None,
) -> PictureComparison:
    """Let two networks find, describe and classify the same pictures, as far as both can.

    Args:
        before: Of the one network.
        after: Of the other, on the same split with the same ``limit``.
        count: Texts and captions at most.
        shown: Pictures of each text.
        most_classes: Rows of the confusion matrices; see ``Confusion.narrowed``.
        zero_shot: Its templates and class names; those of ``ZeroShot()`` by default.
        captioning: Its search; that of ``Captioning()`` by default.

    Raises:
        ValueError: If the views are of different pictures, or a number is too small.
    """
    if count < 1 or shown < 1:
        raise ValueError(f"count and shown must be at least 1, got count={count} and shown={shown}")
    if most_classes < 2:
        raise ValueError(f"most_classes must be at least 2, got {most_classes}")
    if before.split.sha256 != after.split.sha256 or before.indices != after.indices:
        raise ValueError(
            "views must be of the same pictures, "
            f"got {len(before)} of {before.split.description} and {len(after)} of {after.split.description}"
        )
    views = (before, after)
    vectors = all(view.adapter.has_vectors for view in views)
    return PictureComparison(
        description=before.split.description,
        retrieved=_retrieved(before, after, count, shown) if vectors else (),
        captions=_captions(before, after, count, captioning or Captioning())
        if all(view.adapter.writes_captions for view in views)
        else (),
        confusion=_confusion(before, after, zero_shot or ZeroShot()).narrowed(most_classes)
        if vectors and before.labels is not None and len(before.split.classes) > 1
        else None,
    )


def _retrieved(before: View, after: View, count: int, shown: int) -> tuple[RetrievedPictures, ...]:
    different = list(dict.fromkeys(texts[0] for texts in before.captions if texts))
    queries = [different[place] for place in evenly_spaced(len(different), count)]
    found = (_nearest(view, queries, shown) for view in (before, after))
    return tuple(RetrievedPictures(*each) for each in zip(queries, *found, strict=True))


def _nearest(view: View, queries: list[str], shown: int) -> list[tuple[FoundPicture, ...]]:
    scores = view.text_vectors(queries) @ view.image_vectors().T
    best = scores.topk(min(shown, len(view)))
    captions = view.captions
    return [
        tuple(
            FoundPicture(
                view.indices[place], view.split.names[view.indices[place]], score, query in captions[place]
            )
            for place, score in zip(places, row, strict=True)
        )
        if all(math.isfinite(score) for score in row)
        else ()
        for query, places, row in zip(queries, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _captions(before: View, after: View, count: int, search: Captioning) -> tuple[WrittenCaptions, ...]:
    places = evenly_spaced(len(before), count)
    sides = [
        view.captions_written(num_beams=search.num_beams, max_new_tokens=search.max_new_tokens, places=places)
        if view.has_finite_weights()
        else [""] * len(places)
        for view in (before, after)
    ]
    references = before.captions
    return tuple(
        WrittenCaptions(
            index=before.indices[place],
            name=before.names[place],
            references=tuple(references[place]),
            before=first,
            after=second,
        )
        for place, first, second in zip(places, *sides, strict=True)
    )


def _confusion(before: View, after: View, zero_shot: ZeroShot) -> Confusion:
    first, second = (zero_shot.result(view) for view in (before, after))
    return Confusion(first.classes, _rows(first.scores.confusion), _rows(second.scores.confusion))


def _read_confusion(record: Mapping[str, Any]) -> Confusion:
    return Confusion(
        **{**record, "classes": tuple(record["classes"])}
        | {side: _rows(record[side]) for side in ("before", "after")}
    )


def _rows(matrix: Iterable[Iterable[SupportsInt]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(cell) for cell in row) for row in matrix)
