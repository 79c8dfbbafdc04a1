"""A gzip file is read at any offset, as if it were unpacked."""

import gzip
import pickle
import random
from pathlib import Path

import pytest

from datamodules.images.gzip_blocks import GzipBlocks

BLOCK = 2 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    chance = random.Random(0)
    # three blocks and a bit; half of it packs well, so that packed and unpacked offsets differ
    return b"".join(chance.randbytes(50_000) + bytes(50_000) for _ in range(66))


@pytest.mark.parametrize("members", [1, 7])
def test_any_part_is_that_of_the_content(members: int, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    step = -(-len(content) // members)
    parts = [content[start : start + step] for start in range(0, len(content), step)]
    path.write_bytes(b"".join(gzip.compress(part, 1) for part in parts))
    blocks = GzipBlocks(path)
    assert blocks.size == len(content)
    chance = random.Random(1)
    places = [(chance.randrange(len(content)), chance.randrange(300_000)) for _ in range(12)]
    edges = [
        (0, 10),
        (BLOCK - 5, 10),
        (BLOCK, 1),
        (BLOCK, 2 * BLOCK),
        (len(content) - 3, 10),
        (len(content), 5),
    ]
    for offset, size in [*places, *edges]:
        assert blocks.read_at(offset, size) == content[offset : offset + size]
    assert pickle.loads(pickle.dumps(blocks)).read_at(BLOCK - 5, 10) == content[BLOCK - 5 : BLOCK + 5]


@pytest.mark.parametrize("size", [0, BLOCK])
def test_content_of_no_block_or_exactly_one(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\1" * size))
    blocks = GzipBlocks(tmp_path / "a.gz")
    assert blocks.size == size
    assert blocks.read_at(0, size + 1) == b"\1" * size


def test_padding_after_the_last_member_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"abc") + bytes(1024))
    assert GzipBlocks(tmp_path / "a.gz").read_at(0, 100) == b"abc"


@pytest.mark.parametrize("left", [15, 200_000, 3_000_000])
def test_a_file_cut_short_is_refused(left: int, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(content, 1)[:left])
    with pytest.raises(ValueError, match=r"a\.gz: cut short"):
        GzipBlocks(tmp_path / "a.gz")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8bno gzip at all")
    with pytest.raises(ValueError, match=r"a\.gz: expected a gzip file"):
        GzipBlocks(tmp_path / "a.gz")
