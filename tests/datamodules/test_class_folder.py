"""ClassFolderDataModule: folders are classes, in a folder, zip or tar; names and templates make texts."""

import io
import json
import logging
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules import ClassFolderDataModule

CLASSES = ["dog", "fire_truck", "zebra"]


@pytest.fixture
def picture(photo: Callable[..., Image.Image], encoded: Callable[..., bytes]) -> bytes:
    return encoded(photo(0))


def written(path: Path, names: list[str], data: bytes) -> Path:
    """A folder, zip or tar with the same picture under many names."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, data)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    else:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def names_of(split: str, count: int = 4) -> list[str]:
    return [f"{split}/{folder}/{number}.jpg" for folder in CLASSES for number in range(count)]


@pytest.mark.parametrize("kind", ["set", "set.zip", "set.tar"])
@pytest.mark.parametrize("prefix", ["", "cifar/images/"])
@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_folders_are_classes_wherever_they_lie(
    kind: str, prefix: str, validation: str, picture: bytes, tmp_path: Path
) -> None:
    names = [prefix + name for name in [*names_of("train"), *names_of(validation, 2), *names_of("test", 1)]]
    data = ClassFolderDataModule(str(written(tmp_path / kind, [*names, f"{prefix}read.me"], picture)))
    assert data.own_splits() == {"train", "validation", "test"}
    for split, folder, count in (("train", "train", 4), ("validation", validation, 2), ("test", "test", 1)):
        part = data.split(split)
        assert list(part.names) == [prefix + name for name in names_of(folder, count)]
        assert part.labels is not None
        assert part.labels.tolist() == [label for label in range(3) for _ in range(count)]
        assert list(part.classes) == ["dog", "fire truck", "zebra"]
        assert part.captions == [[["dog"], ["fire truck"], ["zebra"]][label] for label in part.labels]
        assert part.description == f"{3 * count} {split} pictures of 3 classes in {kind}"


def test_without_split_folders_all_are_train_and_a_part_is_held_out(picture: bytes, tmp_path: Path) -> None:
    root = written(
        tmp_path / "set", [f"{folder}/{number}.jpg" for folder in CLASSES for number in range(10)], picture
    )
    data = ClassFolderDataModule(str(root), validation_share=0.2)
    assert data.own_splits() == {"train"}
    assert [len(data.split(split)) for split in ("train", "validation")] == [24, 6]
    assert not set(data.split("train").names) & set(data.split("validation").names)
    assert (
        data.split("validation").description == "6 held-out pictures of 30 train pictures of 3 classes in set"
    )


def test_each_split_may_have_a_path_of_its_own(picture: bytes, tmp_path: Path) -> None:
    written(tmp_path / "ILSVRC_train.tar", [f"{folder}/1.JPEG" for folder in CLASSES], picture)
    written(
        tmp_path / "val",
        [f"{folder}/{number}.JPEG" for folder in CLASSES[:2] for number in range(2)],
        picture,
    )
    data = ClassFolderDataModule({"train": "ILSVRC_train.tar", "validation": "val"}, data_dir=str(tmp_path))
    train, validation = data.split("train"), data.split("validation")
    assert (train.labels is None, validation.labels is None) == (False, False)
    assert train.labels.tolist() == [0, 1, 2]
    assert validation.labels.tolist() == [0, 0, 1, 1], "a label means the same class in all splits"
    assert list(validation.classes) == list(train.classes)


def test_a_tar_of_tars_is_read_as_imagenet_comes(picture: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for folder in ("n01", "n02"):
            inner = written(
                tmp_path / f"{folder}.tar", [f"{folder}_{number}.JPEG" for number in range(3)], picture
            )
            archive.add(inner, inner.name)
    data = ClassFolderDataModule({"train": "train.tar"}, data_dir=str(tmp_path), validation_share=0.1)
    assert list(data.split("train").classes) == ["n01", "n02"]
    names = {*data.split("train").names, *data.split("validation").names}
    assert names == {f"{folder}/{folder}_{number}.JPEG" for folder in ("n01", "n02") for number in range(3)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "a dog\na truck\na zebra\n\n"),
        (
            "names.json",
            json.dumps({"zebra": "a_zebra", "dog": "a dog", "fire_truck": "a truck", "cat": "a cat"}),
        ),
        (
            "names.json",
            json.dumps({"0": ["dog", "a_dog"], "1": ["fire_truck", "a truck"], "2": ["zebra", "a zebra"]}),
        ),
    ],
    ids=["lines", "by folder", "by number"],
)
def test_a_file_names_the_classes(name: str, content: str, picture: bytes, tmp_path: Path) -> None:
    written(tmp_path / "set", names_of("train"), picture)
    (tmp_path / name).write_text(content)
    data = ClassFolderDataModule("set", class_names=name, data_dir=str(tmp_path))
    assert list(data.split("train").classes) == ["a dog", "a truck", "a zebra"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", "a\nb\n", r"names\.txt: expected 3 names, one for each class folder, found 2"),
        ("names.json", "[1]", r"expected an object of names by folder, found list"),
        ("names.json", "{", r"expected JSON"),
        ("names.json", '{"dog": "a"}', r"2 of 3 classes have no name: \['fire_truck', 'zebra'\]"),
        ("none.txt", None, r"none\.txt: no such file"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    name: str, content: str | None, message: str, picture: bytes, tmp_path: Path
) -> None:
    written(tmp_path / "set", names_of("train"), picture)
    if content is not None:
        (tmp_path / name).write_text(content)
    data = ClassFolderDataModule("set", class_names=name, data_dir=str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.split("train")


def test_a_name_that_two_classes_have_is_named(
    picture: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "set", names_of("train"), picture)
    (tmp_path / "names.txt").write_text("crane\ntruck\ncrane\n")
    data = ClassFolderDataModule("set", class_names="names.txt", data_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert list(data.split("train").classes) == ["crane", "truck", "crane"]
    assert "classes that no text tells apart: crane" in caplog.text


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["1.jpg", "2.jpg"], "2 files, 2 pictures, such as 1.jpg, 2.jpg"),
        (["train/1.jpg", "val/2.jpg"], "2 files, 2 pictures"),
        (["dog/1.txt"], "1 files, 0 pictures, such as dog/1.txt"),
        ([], "0 files, 0 pictures, such as nothing"),
    ],
)
def test_no_classes_says_what_was_found(names: list[str], found: str, picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    data = ClassFolderDataModule(str(written(tmp_path / "set", names, picture)))
    with pytest.raises(ValueError, match=rf"expected pictures in class folders .*, found .*set: {found}"):
        data.split("train")


def test_training_draws_a_template_and_evaluation_reads_the_first(
    picture: bytes, tmp_path: Path, adapter: Callable[..., Any]
) -> None:
    names = [*names_of("train", 40), *names_of("val", 2)]
    templates = ["a photo of a {}.", "the {} in {} colours", "{}"]
    data = ClassFolderDataModule(str(written(tmp_path / "set", names, picture)), templates=templates)
    words = adapter()
    data.use_adapter(words)

    def texts_of(loader: Any) -> Counter[tuple[int, tuple[int, ...]]]:
        batches = list(loader)
        return Counter(
            (int(label), tuple(row[row != 0].tolist()))
            for batch in batches
            for label, row in zip(batch["label"], batch["input_ids"], strict=True)
        )

    def row(template: str, name: str) -> tuple[int, ...]:
        return tuple(words.tokenize([template.replace("{}", name)])[0].tolist())

    classes = ["dog", "fire truck", "zebra"]
    train = texts_of(data.train_dataloader())
    assert train.keys() == {
        (label, row(each, name)) for label, name in enumerate(classes) for each in templates
    }
    assert min(train.values()) >= 4  # 40 draws among three: fewer than 4 has a chance below 1e-4
    assert texts_of(data.val_dataloader()) == {
        (label, row(templates[0], name)): 2 for label, name in enumerate(classes)
    }


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{}", "a photo"]])
def test_templates_must_have_room_for_a_name(templates: list[str]) -> None:
    with pytest.raises(ValueError, match=r"templates must have \{\} where the class's name goes"):
        ClassFolderDataModule("set", templates=templates)


def test_cifar_10_is_read(shared_data: Path) -> None:
    path = shared_data / "images" / "cifar10" / "cifar10_jpg.zip"
    data = ClassFolderDataModule(str(path), check="exists")
    assert [len(data.split(split)) for split in ("train", "validation", "test")] == [9500, 500, 10_000]
    test = data.split("test")
    assert test.labels is not None
    assert Counter(test.labels.tolist()) == dict.fromkeys(range(10), 1000)
    assert list(test.classes)[:3] == ["airplane", "automobile", "bird"]
