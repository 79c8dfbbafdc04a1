"""Names of shards stand for files, which are named where they are missing."""

from pathlib import Path

import pytest

from datamodules.images.shards import expand


@pytest.mark.parametrize("given", ["train-{000..001}.tar", "train-*.tar"], ids=["braces", "glob"])
def test_a_missing_shard_is_named(given: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"/train-[0*]+\.tar: no such shard$"):
        expand(given, tmp_path)


def test_where_a_relative_name_starts_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^a/b\.tar: no such shard \(looked from {tmp_path}\)$"):
        expand("b.tar", Path("a"))
