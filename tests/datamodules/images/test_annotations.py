"""Caption files in the two usual forms; any other says what was found."""

import json
import re
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
        (
            {"images": [{"filename": "1.jpg", "split": "val", "sentences": []}]},
            "expected captions, found none for 1",
        ),
        ({**COCO, "annotations": []}, "expected captions, found none for 3 pictures"),
    ],
)
def test_a_file_of_another_form_says_what_was_found(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_annotations(written(tmp_path, content))


def karpathy(**changed: Any) -> dict[str, Any]:
    return {"images": [KARPATHY["images"][1], {**KARPATHY["images"][0], **changed}]}


def coco(annotation: Any) -> dict[str, Any]:
    return {**COCO, "annotations": [COCO["annotations"][0], annotation]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            coco({"image_id": 5, "caption": None}),
            "annotations[1] of 5.jpg: expected caption to be text, found null",
        ),
        (coco({"image_id": 5}), "annotations[1] of 5.jpg: expected caption, text, found keys image_id"),
        (
            coco({"image_id": [5], "caption": "a"}),
            "annotations[1]: expected image_id to be a number or text, found [5]",
        ),
        (coco("a cat"), 'annotations[1]: expected an object with image_id, found "a cat"'),
        (
            {**COCO, "images": [{"id": [7], "file_name": "7.jpg"}]},
            "images[0] (7.jpg): expected id to be a number or text, found [7]",
        ),
        (
            {**COCO, "images": [{"id": 7, "file_name": 7}]},
            "images[0]: expected file_name to be text, found 7",
        ),
        (
            karpathy(split="dev"),
            "images[1] (1.jpg): expected split to be one of train, restval, val, validation, test, found 'dev'",
        ),
        (karpathy(split=None), "images[1] (1.jpg): expected split to be text, found null"),
        (karpathy(filepath=["a"]), 'images[1] (1.jpg): expected filepath to be text, found ["a"]'),
        (karpathy(sentences=3), "images[1] (1.jpg): expected sentences to be a list, found 3"),
        (
            karpathy(sentences=["a"]),
            'images[1] (1.jpg): sentences[0]: expected an object with raw, found "a"',
        ),
        (
            karpathy(sentences=[{"text": "a"}]),
            "images[1] (1.jpg): sentences[0]: expected raw, text, found keys text",
        ),
        (
            karpathy(sentences=[{"raw": None}]),
            "images[1] (1.jpg): sentences[0]: expected raw to be text, found null",
        ),
        (karpathy(filename=True), "images[1]: expected filename to be text, found true"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_picture(
    content: Any, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        read_annotations(path)


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'found \["x{50,60} \.\.\.$'):
        read_annotations(written(tmp_path, coco({"image_id": ["x" * 1000], "caption": "a"})))


def test_where_a_relative_path_starts_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=rf"^none\.json: no such file \(looked from {re.escape(str(tmp_path))}\)$"
    ):
        read_annotations(Path("none.json"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file$"):
        read_annotations(tmp_path / "none.json")
