"""The hash of a split is that of what is in it, and is not made twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from datamodules import ImageTextDataModule
from datamodules.images import FolderStore, MemoryStore, PictureCache, Pictures, PictureTable
from fulgurite.models.adapter import ImageSettings


@pytest.fixture
def table(photo: Callable[..., Image.Image], encoded: Callable[..., bytes], tmp_path: Path) -> PictureTable:
    """Two pictures in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(encoded(photo(number)))
    return PictureTable("two", FolderStore(folder), ["0.jpg", "1.jpg"], [["a"], ["b"]])


def hashed(table: PictureTable, cache_dir: Path | None, keep_after_s: float = -1) -> str:
    pictures = Pictures(table, ImageSettings, PictureCache(0), cache_dir=cache_dir, keep_after_s=keep_after_s)
    return pictures.sha256


def test_the_hash_is_kept_until_a_file_or_text_changes(table: PictureTable, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert hashed(table, cache) == hashed(table, None)
    (entry,) = cache.iterdir()
    entry.write_text('"as kept"')
    assert hashed(table, cache) == "as kept"
    other = replace(table, captions=[["a"], ["c"]])
    assert hashed(other, cache) == hashed(other, None) != hashed(table, None)
    path = table.store.path / "1.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    assert hashed(table, cache) == hashed(table, None) != "as kept"


def test_a_hash_that_took_no_time_is_not_kept(table: PictureTable, tmp_path: Path) -> None:
    hashed(table, tmp_path / "cache", keep_after_s=1000)
    assert not (tmp_path / "cache").exists()


def test_the_hash_of_pictures_in_memory_is_not_kept(table: PictureTable, tmp_path: Path) -> None:
    # other pictures of the same names and sizes could not be told from them
    files = {name: table.store.open(name) for name in table.names}
    memory = replace(table, store=MemoryStore(Path("memory"), files))
    assert hashed(memory, tmp_path / "cache") == hashed(table, None)
    assert not (tmp_path / "cache").exists()


def test_data_modules_keep_it_beside_what_checking_found(table: PictureTable, tmp_path: Path) -> None:
    class Two(ImageTextDataModule):
        def own_splits(self) -> frozenset[str]:
            return frozenset({"validation"})

        def read_table(self, split: str) -> PictureTable:
            return table

    hashed(table, tmp_path)
    next(tmp_path.glob("sha256-*.json")).write_text('"as kept"')
    assert Two(cache_dir=str(tmp_path)).evaluation().sha256 == "as kept"
