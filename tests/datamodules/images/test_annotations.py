"""Caption files in the two usual forms; any other says what was found."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.images.annotations import Captioned, read_annotations

KARPATHY = {
    "dataset": "two",
    "images": [
        {
            "filename": "1.jpg",
            "filepath": "val2014",
            "split": "restval",
            "sentences": [{"raw": " a  cat\n"}, {"raw": "b"}],
        },
        {"filename": "2.jpg", "split": "val", "sentences": [{"raw": "c"}]},
        {"filename": "3.jpg", "split": "test", "sentences": [{"raw": " "}]},
    ],
}
COCO = {
    "info": {},
    "images": [
        {"id": 7, "file_name": "7.jpg"},
        {"id": 5, "file_name": "5.jpg"},
        {"id": 6, "file_name": "6.jpg"},
    ],
    "annotations": [
        {"image_id": 5, "caption": "first of 5"},
        {"image_id": 7, "caption": "of 7"},
        {"image_id": 5, "caption": "second of 5"},
        {"image_id": 99, "caption": "of a picture in another file"},
    ],
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_karpathys_form_says_splits_and_folders(tmp_path: Path) -> None:
    assert read_annotations(written(tmp_path, KARPATHY)) == [
        Captioned(("val2014/1.jpg", "1.jpg"), ["a cat", "b"], "train"),  # restval counts as train
        Captioned(("2.jpg",), ["c"], "validation"),
    ]


def test_cocos_form_gathers_the_captions_of_a_picture(tmp_path: Path) -> None:
    assert read_annotations(written(tmp_path, COCO)) == [
        Captioned(("7.jpg",), ["of 7"], None),
        Captioned(("5.jpg",), ["first of 5", "second of 5"], None),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"captions\.json: expected JSON"),
        ([{"image": "1.jpg", "caption": "a"}], r"expected .*Karpathy.* or .*COCO.*, found list of dict"),
        ("3", "found int"),
        ({"data": [], "version": 1}, "found an object with keys data, version"),
        ({}, "found an object with no keys"),
        ({"images": ["1.jpg"]}, "found an object with keys images"),
        ({"images": []}, "expected pictures, found an empty list"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}]}, "keys images, pictures with keys id, file_name"),
        ({"images": [{"filename": "1.jpg", "sentences": []}]}, "a picture or caption has no 'split'"),
        ({"images": [{"filename": "1.jpg", "split": "dev", "sentences": []}]}, "no .*'dev' of 1.jpg"),
        ({"images": [{"filename": "1.jpg", "split": "val", "sentences": [{"text": "a"}]}]}, "no 'raw'"),
        (
            {"images": [{"filename": "1.jpg", "split": "val", "sentences": []}]},
            "expected captions, found none for 1",
        ),
        ({**COCO, "annotations": [{"image_id": 5}]}, "a picture or caption has no 'caption'"),
        ({**COCO, "annotations": []}, "expected captions, found none for 3 pictures"),
    ],
)
def test_a_file_of_another_form_says_what_was_found(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_annotations(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        read_annotations(tmp_path / "none.json")
