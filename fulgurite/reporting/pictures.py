"""The chapter that people look at first: pictures found, captions and confusion matrices, before and after.

record["pictures"] -> Gallery a text, Captions a picture, Plot and table of the classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.reporting.blocks import Block, Captions, Fold, Gallery, Picture, Plot, Table, Text
from fulgurite.reporting.confusion import confusion_of, plot_confusion
from fulgurite.reporting.units import UNKNOWN, format_list, format_number, format_percent

_NAMED = 3  # classes in the description of the plot


def picture_blocks(record: Mapping[str, Any]) -> list[Block]:
    """The chapter; empty where the record has no pictures."""
    pictures = record.get("pictures")
    if pictures is None:
        return []
    blocks: list[Block] = []
    if pictures["retrieved"]:
        blocks.append(
            Text(
                f"Pictures nearest to a text, from {pictures['description']}, with the cosine of their vectors. "
                "Right are those whose own text it is. The texts are evenly spaced over the split, not chosen."
            )
        )
        blocks += [_gallery(each, pictures["thumbnails"]) for each in pictures["retrieved"]]
    if pictures["captions"]:
        blocks.append(
            Text(
                f"Captions of pictures from {pictures['description']}, evenly spaced over the split, not chosen."
            )
        )
        blocks += [_captions(each, pictures["thumbnails"]) for each in pictures["captions"]]
    return blocks + _confusion(record)


def _gallery(found: Mapping[str, Any], thumbnails: Mapping[str, str]) -> Gallery:
    sides = (
        [
            Picture(
                each["name"],
                thumbnails.get(str(each["index"])),
                f"{'right' if each['right'] else 'other'}, {format_number(each['score'], 3)}",
                each["right"],
            )
            for each in found[side]
        ]
        for side in ("before", "after")
    )
    return Gallery(found["text"], *sides)


def _captions(written: Mapping[str, Any], thumbnails: Mapping[str, str]) -> Captions:
    picture = Picture(written["name"], thumbnails.get(str(written["index"])))
    return Captions(picture, written["references"], written["before"], written["after"])


def _confusion(record: Mapping[str, Any]) -> list[Block]:
    figure = plot_confusion(record)
    if figure is None:
        return []
    whole, shown = record["pictures"]["confusion"], confusion_of(record)
    assert shown is not None  # there is a figure
    rows = [_class_row(whole, place) for place in range(len(whole["classes"]))]
    own = len(rows) - (whole["others"] > 0)  # rows of one class
    changes = sorted(range(own), key=lambda place: -abs(_gain(whole, place)))[:_NAMED]
    told = [f"{rows[place][0]} {rows[place][2]} before and {rows[place][3]} after" for place in changes]
    alt = f"Confusion matrices before and after. Taken for what they are: {format_list(told)}"
    caption = (
        "How many % of the pictures of each true class are taken for each class. Framed: for what they are."
    )
    if shown["others"]:
        count = own + whole["others"]
        caption += f" Of {count} classes those are shown that changed most; the others are one."
    table = Table(
        f"Classes of {record['pictures']['description']}.",
        ("class", "pictures", "right before", "right after", "else taken for, before", "and after"),
        rows,
        (False, True, True, True, False, False),
    )
    return [Plot("confusion", figure, alt, caption), Fold("The classes in numbers", table)]


def _class_row(confusion: Mapping[str, Any], place: int) -> tuple[str, ...]:
    sides = [confusion[side][place] for side in ("before", "after")]
    return (
        confusion["classes"][place],
        f"{max(map(sum, sides)):,}",  # a network that diverged takes pictures for nothing
        *(format_percent(_right(confusion, row, place)) for row in sides),
        *(_mistake(confusion["classes"], row, place) for row in sides),
    )


def _right(confusion: Mapping[str, Any], row: Sequence[int], place: int) -> float | None:
    """Share of a class's pictures; ``None`` where it has none, or where the row is of several classes."""
    several = confusion["others"] and place == len(row) - 1
    return None if several or not sum(row) else row[place] / sum(row)


def _gain(confusion: Mapping[str, Any], place: int) -> float:
    before, after = (_right(confusion, confusion[side][place], place) or 0.0 for side in ("before", "after"))
    return after - before


def _mistake(classes: Sequence[str], row: Sequence[int], place: int) -> str:
    """The other class that a class's pictures are taken for most often."""
    others = [(count, -other) for other, count in enumerate(row) if other != place and count]
    if not others:
        return UNKNOWN
    count, other = max(others)
    return f"{classes[-other]}, {format_percent(count / sum(row))}"
