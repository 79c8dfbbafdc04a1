"""Small copies of pictures: their size, their bytes, and that none is left of another result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from callbacks.thumbnails import pictures_record
from fulgurite.artifact.files import sha256_folder
from fulgurite.evaluation.benchmarks.pictures import (
    Confusion,
    FoundPicture,
    PictureComparison,
    RetrievedPictures,
    WrittenCaptions,
)
from fulgurite.reporting import load_schema


class Split:
    """Pictures of given sizes, each with a camera's remarks."""

    def __init__(self, sizes: dict[int, tuple[int, int]]) -> None:
        self.sizes = sizes

    def picture(self, index: int) -> Image.Image:
        picture = Image.effect_mandelbrot(self.sizes[index], (-2, -1.5, 1, 1.5), 20).convert("RGB")
        picture.info.update(exif=b"Exif\0\0where it was taken", icc_profile=b"colours", comment="who took it")
        return picture


def comparison(*shown: int, captioned: int) -> PictureComparison:
    found = tuple(FoundPicture(index, f"{index}.jpg", 0.5, index == 3) for index in shown)
    return PictureComparison(
        "some pictures",
        (RetrievedPictures("a text", found[:2], found[1:]),),
        (WrittenCaptions(captioned, "c.jpg", ("one", "two"), "before", "after"),),
        Confusion(("a", "b"), ((1, 0), (0, 1)), ((1, 0), (1, 0))),
    )


SIZES = {3: (400, 200), 40: (30, 50), 1_234_567: (96, 97), 8: (1000, 3)}
SMALL = {3: (96, 48), 40: (30, 50), 1_234_567: (95, 96), 8: (96, 1)}


def written(folder: Path) -> dict[str, Any]:
    split: Any = Split(SIZES)
    return pictures_record(comparison(3, 40, 1_234_567, captioned=8), split, folder)


def test_the_longer_side_is_at_most_96_pixels(tmp_path: Path) -> None:
    record = written(tmp_path)
    assert record["thumbnails"] == {
        "3": "pictures/000003.png",
        "8": "pictures/000008.png",
        "40": "pictures/000040.png",
        "1234567": "pictures/1234567.png",
    }
    for index, path in record["thumbnails"].items():
        with Image.open(tmp_path / path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
            assert picture.size == SMALL[int(index)]
            assert picture.info == {}  # nothing of the camera's


def test_the_record_fits_its_schema(tmp_path: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    schema = load_schema()
    validator({"$defs": schema["$defs"], **schema["properties"]["pictures"]}).validate(
        json.loads(json.dumps(written(tmp_path)))
    )


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        written(tmp_path / folder)
    assert sha256_folder(tmp_path / "one") == sha256_folder(tmp_path / "other")


def test_those_of_an_earlier_result_are_gone(tmp_path: Path) -> None:
    written(tmp_path)
    split: Any = Split(SIZES)
    pictures_record(comparison(40, captioned=40), split, tmp_path)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["000040.png"]


def test_a_picture_that_cannot_be_read_leaves_the_earlier_ones(tmp_path: Path) -> None:
    written(tmp_path)
    before = sha256_folder(tmp_path)
    split: Any = Split({3: (10, 10)})
    with pytest.raises(KeyError):
        pictures_record(comparison(3, 40, captioned=3), split, tmp_path)
    assert sha256_folder(tmp_path) == before
