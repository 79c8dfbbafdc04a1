"""ShapesDataModule: pictures show what captions say, splits have no caption in common, a seed makes them again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datamodules import ShapesDataModule
from datamodules.images.drawing import COLOURS, SHAPES, SIZES


@pytest.mark.parametrize("objects", [1, 2])
def test_splits_have_no_caption_in_common_but_all_classes(objects: Any) -> None:
    data = ShapesDataModule(objects=objects)
    captions = {
        split: {each[0] for each in data.split(split).captions} for split in ("train", "validation", "test")
    }
    assert not captions["train"] & captions["validation"]
    assert not captions["test"] & (captions["train"] | captions["validation"])
    assert len(captions["validation"]) == len(captions["test"]) == 96, "retrieval has one right answer"
    train = data.split("train")
    assert train.labels is not None
    assert set(train.labels.tolist()) == set(range(36))
    assert len(train.classes) == len(COLOURS) * len(SHAPES)


def test_a_caption_says_size_colour_shape_and_place() -> None:
    split = ShapesDataModule(train=200).split("train")
    assert split.labels is not None
    for index in range(200):
        article, size, colour, shape, *place = split.captions[index][0].split()
        assert (article, size in SIZES, split.classes[split.labels[index]]) == (
            "a",
            True,
            f"{colour} {shape}",
        )
        pixels = np.asarray(split.picture(index)).astype(int)
        painted = np.abs(pixels - np.array(COLOURS[colour])).max(2) < 40
        assert painted.any()
        rows, columns = (np.flatnonzero(painted.any(axis)) for axis in (1, 0))
        centre = (rows.mean() / 64, columns.mean() / 64)
        where = [("top" in place) - ("bottom" in place), ("left" in place) - ("right" in place)]
        for at, side in zip(centre, where, strict=True):
            assert abs(at - (0.5 - 0.28 * side)) < 0.12
        # half of the painted width: a square's is 0.81 of its radius, and the smooth edge is not counted
        assert 0.6 * SIZES[size] < (columns[-1] - columns[0] + 1) / 128 < 1.35 * SIZES[size]


def test_two_shapes_stand_as_the_caption_says() -> None:
    split = ShapesDataModule(train=100, objects=2).split("train")
    for index in range(100):
        words = split.captions[index][0].replace(" of", "").split()
        first, relation, second = words[1:4], words[4], words[6:9]
        if first[1] == second[1]:
            continue  # of one colour: not told apart here
        pixels = np.asarray(split.picture(index)).astype(int)
        places = [
            np.argwhere(np.abs(pixels - np.array(COLOURS[thing[1]])).max(2) < 25).mean(0)
            for thing in (first, second)
        ]
        down, right = places[0] - places[1]
        assert {"above": -down, "below": down, "left": -right, "right": right}[relation] > 10


def test_a_seed_makes_the_same_pictures() -> None:
    first, again, other = (ShapesDataModule(seed=seed).split("validation") for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256


def test_more_pictures_leave_those_before_as_they_are() -> None:
    few, many = (ShapesDataModule(train=count).split("train") for count in (10, 2000))
    assert many.captions[:10] == few.captions
    assert few.picture(3).tobytes() == many.picture(3).tobytes()
    assert len(many) == 2000, "captions come again, pictures do not"


def test_batches_are_as_the_network_wants_them(adapter: Callable[..., Any]) -> None:
    data = ShapesDataModule(train=20, batch_size=8, side=32)
    data.use_adapter(adapter(fill=255))
    batches = list(data.train_dataloader())
    assert [len(batch["label"]) for batch in batches] == [8, 8, 4]
    assert batches[0]["pixel_values"].shape == (8, 3, 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 0}, "train must be at least 1, got 0"),
        ({"side": 4}, "side must be at least 8, got 4"),
        ({"objects": 3}, "objects must be one of 1, 2, got 3"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesDataModule(**settings)
