"""Pictures are read where they lie: the same bytes from a folder, a zip and a tar, by threads and workers."""

import io
import multiprocessing
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datamodules.images import MemoryStore, open_store

# sizes around a tar's block of 512 bytes, one empty, and one with nothing to deflate
FILES = {
    "a.jpg": b"x" * 511,
    "b.png": b"",
    "train/cat/1.jpg": random.Random(0).randbytes(5000),
    "train/cat/größe.jpg": b"y" * 513,
    "train/dog/2.jpeg": b"z" * 512,
}
KINDS = ["folder", "stored.zip", "deflated.zip", "plain.tar", "packed.tar.gz", "nested.tar"]


def tar_of(files: dict[str, bytes], mode: str = "w", prefix: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def written(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "folder":
        for name, data in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind.endswith(".zip"):
        method = zipfile.ZIP_STORED if kind == "stored.zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.mkdir("train")
            for name, data in FILES.items():
                archive.writestr(name, data)
    elif kind == "packed.tar.gz":
        path.write_bytes(tar_of(FILES, "w:gz"))
    elif kind == "nested.tar":  # a tar of a tar for each folder, as ImageNet's is
        inner = {name.removeprefix("train/"): data for name, data in FILES.items() if "train" in name}
        outer = {name: data for name, data in FILES.items() if "train" not in name}
        path.write_bytes(tar_of({**outer, "train.tar": tar_of(inner)}))
    else:
        path.write_bytes(tar_of(FILES, prefix="./"))  # as `tar c .` names them
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_gives_the_files_by_name(kind: str, tmp_path: Path) -> None:
    store = open_store(written(tmp_path, kind))
    assert list(store.names) == sorted(FILES)
    assert {name: store.open(name) for name in store.names} == FILES
    for size in (0, 100, 10_000):
        assert {name: store.head(name, size) for name in FILES} == {
            name: data[:size] for name, data in FILES.items()
        }
    assert "a.jpg" in store
    assert "train" not in store
    with pytest.raises(FileNotFoundError, match=rf"{kind}: no file c\.jpg"):
        store.open("c.jpg")


@pytest.mark.parametrize("kind", KINDS)
def test_threads_forked_workers_and_a_pickled_copy_read_the_same(kind: str, tmp_path: Path) -> None:
    store = open_store(written(tmp_path, kind))
    names = list(FILES) * 40
    expected = [FILES[name] for name in names]
    store.open("a.jpg")  # whatever is opened is open before the fork
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(store.open, names)) == expected
    assert [pickle.loads(pickle.dumps(store)).open(name) for name in FILES] == list(FILES.values())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(store.open, names, chunksize=10) == expected


def test_a_file_is_found_by_its_last_part_where_one_alone_has_it() -> None:
    store = MemoryStore(Path("memory"), dict.fromkeys(["top/1.jpg", "a/2.jpg", "b/2.jpg"], b""))
    assert store.find("a/2.jpg", "2.jpg") == "a/2.jpg"
    assert store.find("val2014/1.jpg", "1.jpg") == "top/1.jpg"
    assert store.find("c/2.jpg", "2.jpg") is None, "two files have that name"
    assert store.find("3.jpg") is None


def test_pictures_are_told_from_other_files_by_their_names() -> None:
    names = ["a/1.JPG", "a/2.jpeg", "a/notes.txt", "a/.hidden.jpg", "__MACOSX/a/._1.JPG", "a/jpg"]
    assert MemoryStore(Path("memory"), dict.fromkeys(names, b"")).pictures() == ["a/1.JPG", "a/2.jpeg"]


@pytest.mark.parametrize("kind", ["folder", "stored.zip", "plain.tar"])
def test_a_stamp_changes_with_the_files(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    store = open_store(path)
    old = store.stamp(["a.jpg"])
    assert open_store(path).stamp(["a.jpg"]) == old
    changed = path / "a.jpg" if kind == "folder" else path
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert store.stamp(["a.jpg"]) != old


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: folder / "none", r"none: no such folder or archive"),
        (
            lambda folder: cut(written(folder, "stored.zip"), 3000),
            r"stored\.zip: expected a whole zip archive",
        ),
        (
            lambda folder: cut(written(folder, "plain.tar"), 3000),
            r"plain\.tar: (cut short|expected a whole tar)",
        ),
        (lambda folder: cut(written(folder, "packed.tar.gz"), 3000), r"packed\.tar\.gz: cut short"),
        (lambda folder: written(folder, "folder") / "a.jpg", r"a\.jpg: expected a folder, \.zip, \.tar"),
    ],
    ids=["missing", "zip", "tar", "tar.gz", "other"],
)
def test_what_is_no_whole_archive_is_refused(
    break_it: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_store(break_it(tmp_path))


def test_a_file_of_a_zip_that_was_damaged_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "stored.zip")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x" * 511, b"x" * 510 + b"q"))
    with pytest.raises(ValueError, match=r"stored\.zip: a\.jpg does not have the checksum"):
        open_store(path).open("a.jpg")


def test_a_zip_compressed_in_another_way_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", b"x")
    with pytest.raises(ValueError, match=r"a\.jpg is encrypted or neither stored nor deflated"):
        open_store(tmp_path / "lzma.zip")
