"""Broken and missing pictures are found beforehand, named, left out, and too many of them stop."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.images import MemoryStore, PictureTable
from datamodules.images.checking import broken_pictures
from datamodules.images.stores import FolderStore

Encoded = Callable[..., bytes]


@pytest.fixture
def store(photo: Callable[..., Image.Image], encoded: Encoded) -> MemoryStore:
    """Six pictures: the third cut in half, the fifth a page."""
    files = {f"{number}.jpg": encoded(photo(number, 100, 80)) for number in range(6)}
    files["2.jpg"] = files["2.jpg"][: len(files["2.jpg"]) // 2]
    files["4.jpg"] = b"<html>"
    return MemoryStore(Path("memory"), files)


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("decode", {"2.jpg": "truncated", "4.jpg": "no picture", "9.jpg": "missing"}),
        ("header", {"4.jpg": "no picture", "9.jpg": "missing"}),
        ("exists", {"9.jpg": "missing"}),
    ],
)
def test_broken_pictures_are_found_as_far_as_they_are_read(
    check: Any, expected: dict[str, str], store: MemoryStore, tmp_path: Path
) -> None:
    found = broken_pictures(store, [*store.names, "9.jpg"], check, tmp_path)
    assert list(found) == list(expected)
    assert all(reason in found[name] for name, reason in expected.items())
    assert not list(tmp_path.iterdir()), "what took no time is not kept"


def test_a_header_longer_than_most_is_no_fault(
    photo: Callable[..., Image.Image], encoded: Encoded, tmp_path: Path
) -> None:
    # a colour profile of 100 kB stands before the size of the picture
    data = encoded(photo(0), icc_profile=bytes(100_000))
    store = MemoryStore(Path("memory"), {"a.jpg": data, "b.jpg": data[:90_000]})
    assert list(broken_pictures(store, ["a.jpg", "b.jpg"], "header", tmp_path)) == ["b.jpg"]


def test_what_took_long_is_kept_until_a_file_changes(
    photo: Callable[..., Image.Image], encoded: Encoded, tmp_path: Path
) -> None:
    folder, kept = tmp_path / "pictures", tmp_path / "cache"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(photo(0)))
    (folder / "b.jpg").write_bytes(b"none")

    def check() -> list[str]:
        return list(broken_pictures(FolderStore(folder), ["a.jpg", "b.jpg"], "decode", kept, keep_after_s=-1))

    assert check() == ["b.jpg"]
    (entry,) = kept.iterdir()
    entry.write_text('{"a.jpg": "as kept"}')
    assert check() == ["a.jpg"], "read from the file"
    (folder / "b.jpg").write_bytes(encoded(photo(1)))
    assert check() == [], "sizes and times differ: read anew"


def table(names: list[str]) -> PictureTable:
    return PictureTable("ten pictures", MemoryStore(Path("memory"), {}), names, [[name] for name in names])


def test_broken_pictures_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{number}.jpg" for number in range(10)]
    with caplog.at_level(logging.WARNING):
        left = table(names).without({"3.jpg": "truncated", "7.jpg": "missing"}, max_broken=0.2)
    assert left.names == [name for name in names if name not in ("3.jpg", "7.jpg")]
    assert left.captions == [[name] for name in left.names]
    assert "2 of 10 pictures broken or missing: 3.jpg (truncated), 7.jpg (missing)" in caplog.text


def test_too_many_broken_pictures_stop() -> None:
    names = [f"{number}.jpg" for number in range(10)]
    broken = dict.fromkeys(names[:7], "truncated")
    with pytest.raises(ValueError, match=r"ten pictures: 7 of 10 .*0\.jpg \(truncated\).* and 2 more.*0\.69"):
        table(names).without(broken, max_broken=0.69)
    with pytest.raises(ValueError, match="10 of 10"):
        table(names).without(dict.fromkeys(names, "truncated"), max_broken=1)


def test_a_held_out_part_and_the_rest_are_all_of_it() -> None:
    whole = table([f"{number}.jpg" for number in range(20)])
    rest, held = whole.hold_out(0.25, seed=1)
    assert (len(rest), len(held)) == (15, 5)
    assert sorted([*rest.names, *held.names]) == sorted(whole.names)
    assert held.names == sorted(held.names, key=list(whole.names).index), "in the order of the file"
    assert whole.hold_out(0.25, seed=1)[1].names == held.names
    assert whole.hold_out(0.25, seed=2)[1].names != held.names
    assert [len(part) for part in whole.hold_out(0.001, seed=0)] == [19, 1]
    with pytest.raises(ValueError, match="1 picture, expected one to train on and one to hold out"):
        whole.some([0]).hold_out(0.5, seed=0)


def test_a_limit_takes_pictures_evenly_spaced() -> None:
    whole = table([str(number) for number in range(10)])
    assert whole.limited(4).names == ["0", "2", "5", "7"]
    assert whole.limited(None).names == whole.limited(99).names == whole.names
