"""CaptionsDataModule: both forms of caption file, pictures in a folder, zip or tar, broken ones left out."""

import io
import json
import logging
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules import CaptionsDataModule
from fulgurite.evaluation.image_split import ImageSplit

SPLITS = ["train"] * 6 + ["restval"] * 2 + ["val"] * 3 + ["test"] * 2


@pytest.fixture
def files(photo: Callable[..., Image.Image], encoded: Callable[..., bytes]) -> dict[str, bytes]:
    return {f"{number}.jpg": encoded(photo(number)) for number in range(len(SPLITS))}


def captions_of(number: int) -> list[str]:
    return [f"picture {number} said in way {way}" for way in range(1 + number % 3)]


def data_of(
    folder: Path, files: dict[str, bytes], pictures: str = "pictures", **settings: Any
) -> CaptionsDataModule:
    """A data module on files that are written here, with a caption file in Karpathy's form."""
    images = [
        {
            "filename": f"{number}.jpg",
            "split": split,
            "sentences": [{"raw": caption} for caption in captions_of(number)],
        }
        for number, split in enumerate(SPLITS)
    ]
    (folder / "captions.json").write_text(json.dumps({"images": images}))
    path = folder / pictures
    if pictures.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(f"flickr/{name}", data)
    elif ".t" in pictures:
        with tarfile.open(path, "w:gz" if pictures.endswith("gz") else "w") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"./{name}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    else:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    given = {"annotations": "captions.json", "pictures": pictures, "data_dir": str(folder), "batch_size": 4}
    return CaptionsDataModule(**{**given, "cache_dir": str(folder / "cache"), **settings})


@pytest.mark.parametrize("pictures", ["pictures", "pictures.zip", "pictures.tar", "pictures.tgz"])
def test_splits_are_those_of_the_file_wherever_pictures_lie(
    pictures: str, tmp_path: Path, files: dict[str, bytes], adapter: Callable[..., Any]
) -> None:
    data = data_of(tmp_path, files, pictures)
    for split, numbers in (("train", range(8)), ("validation", range(8, 11)), ("test", range(11, 13))):
        part = data.split(split)
        assert isinstance(part, ImageSplit)
        assert [name.rpartition("/")[2] for name in part.names] == [f"{number}.jpg" for number in numbers]
        assert part.captions == [captions_of(number) for number in numbers]
        assert (part.labels, list(part.classes)) == (None, [])
        assert part.description == f"{len(numbers)} {split} pictures of {tmp_path.name}/captions.json"
        assert data.split(split) is part
    data.use_adapter(adapter())
    assert data.split("test").pixels([1, 0]).shape == (2, 3, 16, 16)
    assert data.split("test").picture(0).size == (40, 30)


def test_all_stores_give_the_same_pixels_and_hash(
    tmp_path: Path, files: dict[str, bytes], adapter: Callable[..., Any]
) -> None:
    found, hashes = [], []
    for pictures in ("pictures", "pictures.zip", "pictures.tar"):
        data = data_of(tmp_path, files, pictures)
        data.use_adapter(adapter())
        found.append(data.evaluation().pixels(range(3)))
        hashes.append(data.evaluation().sha256)
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    assert len(set(hashes)) == 1


@pytest.mark.parametrize("change", ["picture", "caption"])
def test_a_hash_changes_with_pictures_and_captions(
    change: str, tmp_path: Path, files: dict[str, bytes]
) -> None:
    old = data_of(tmp_path, files).evaluation().sha256
    if change == "picture":
        (tmp_path / "pictures" / "9.jpg").write_bytes(files["8.jpg"])
    else:
        text = (tmp_path / "captions.json").read_text()
        (tmp_path / "captions.json").write_text(text.replace("picture 9 said in way 0", "other"))
    settings = {"annotations": "captions.json", "pictures": "pictures", "data_dir": str(tmp_path)}
    assert CaptionsDataModule(**settings).evaluation().sha256 != old


def test_the_first_captions_alone_are_read_where_wanted(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = data_of(tmp_path, files, captions="first")
    assert data.split("train").captions == [captions_of(number)[:1] for number in range(8)]


def test_cocos_form_has_a_file_and_pictures_for_each_split(tmp_path: Path, files: dict[str, bytes]) -> None:
    for split, numbers in (("train", range(8)), ("val", range(8, 11))):
        (tmp_path / split).mkdir()
        images = [{"id": number, "file_name": f"{number}.jpg"} for number in numbers]
        annotations = [{"image_id": number, "caption": f"of {number}"} for number in numbers]
        (tmp_path / f"{split}.json").write_text(json.dumps({"images": images, "annotations": annotations}))
        for number in numbers:
            (tmp_path / split / f"{number}.jpg").write_bytes(files[f"{number}.jpg"])
    data = CaptionsDataModule(
        {"train": "train.json", "validation": "val.json"},
        {"train": "train", "validation": "val"},
        data_dir=str(tmp_path),
    )
    assert data.split("validation").captions == [["of 8"], ["of 9"], ["of 10"]]
    assert len(data.split("train")) == 8
    assert not data.has_split("test")
    with pytest.raises(ValueError, match="there is no test split; there is train, validation"):
        data.split("test")
    alone = CaptionsDataModule("train.json", "train", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"train\.json: a file in the COCO form does not say splits"):
        alone.split("train")


def test_broken_and_missing_pictures_are_left_out_and_named(
    tmp_path: Path, files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    files["2.jpg"] = files["2.jpg"][:300]
    del files["5.jpg"]
    data = data_of(tmp_path, files, max_broken=0.25)  # two of eight
    with caplog.at_level(logging.WARNING):
        names = list(data.split("train").names)
    assert names == [f"{number}.jpg" for number in (0, 1, 3, 4, 6, 7)]
    assert data.split("train").captions[2] == captions_of(3)
    assert "2 of 8 pictures broken or missing: 2.jpg" in caplog.text
    assert "5.jpg (missing)" in caplog.text
    few = CaptionsDataModule("captions.json", "pictures", data_dir=str(tmp_path), max_broken=0.24)
    with pytest.raises(
        ValueError, match=r"2 of 8 pictures broken or missing: 2\.jpg .*max_broken allows a share of 0\.24"
    ):
        few.split("train")


def test_a_picture_that_breaks_later_is_named(
    tmp_path: Path, files: dict[str, bytes], adapter: Callable[..., Any]
) -> None:
    files["9.jpg"] = files["9.jpg"][:-20]
    data = data_of(tmp_path, files, check="header")
    data.use_adapter(adapter())
    with pytest.raises(ValueError, match=r"pictures: 9\.jpg cannot be decoded .*check: decode finds such"):
        data.split("validation").pixels(range(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": "last"}, "captions must be one of all, first, got 'last'"),
        ({"pictures": {"dev": "pictures"}}, "pictures must be a path, or paths by train, .*; got 'dev'"),
        ({"annotations": {}}, "annotations must be a path, .*; got nothing"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionsDataModule(**{"annotations": "a.json", "pictures": "pictures", **settings})


def test_pictures_must_be_there_for_each_split(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = data_of(tmp_path, files)
    by_split = CaptionsDataModule("captions.json", {"train": "pictures"}, data_dir=str(tmp_path))
    assert len(by_split.split("train")) == len(data.split("train"))
    with pytest.raises(ValueError, match="pictures has no path for test; there is train"):
        by_split.split("test")


def test_the_emoji_are_read(shared_data: Path) -> None:
    folder = shared_data / "images" / "emoji"
    data = CaptionsDataModule("captions.json", "emoji_png72.zip", data_dir=str(folder), check="header")
    assert [len(data.split(split)) for split in ("train", "validation", "test")] == [1258, 202, 185]
    assert data.split("train").captions[0] == ["hash sign", "hash, hashtag, lb, number, pound, sign"]


def test_the_photos_of_coco_are_read(shared_data: Path) -> None:
    folder = shared_data / "images" / "coco_ccby"
    data = CaptionsDataModule("captions.json", "images.zip", data_dir=str(folder), evaluation_split="test")
    assert len(data.evaluation()) == 85
    assert {len(each) for each in data.evaluation().captions} == {5}
    assert len(data.split("train")) + len(data.split("validation")) == 26
