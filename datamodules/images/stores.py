"""Where the bytes of pictures lie: a folder, an archive that is read in place, or memory.

    path -> open_store -> FolderStore | ZipStore | TarStore -> open(name) -> bytes

A store holds no open handle that a forked or spawned worker could share: workers and threads may all read at once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from datamodules.images.settings import looked_from

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
)
"""What names of pictures end with."""


class PictureStore(ABC):
    """Named pictures, as the bytes of their files.

    Args:
        path: Where they lie; what messages call the store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """All files, sorted; folders are divided by ``/``."""

    @abstractmethod
    def open(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the archive cannot give it.
        """

    def head(self, name: str, size: int) -> bytes:
        """The first ``size`` bytes of a file; what else it has need not be read."""
        return self.open(name)[:size]

    @abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abstractmethod
    def stamp(self, names: Sequence[str]) -> str:
        """Text that changes when the files do: sizes and times, no content."""

    @cached_property
    def _by_last_part(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for name in self.names:
            last = name.rpartition("/")[2]
            found[last] = None if last in found else name
        return found

    def find(self, *wanted: str) -> str | None:
        """The first of the names that is there; else the only file with the same last part.

        Archives of one data set differ in the folder that they put around the pictures.
        """
        for name in wanted:
            if name in self:
                return name
        return self._by_last_part.get(wanted[-1].rpartition("/")[2])

    def pictures(self) -> list[str]:
        """Names of the files that are pictures by their ending, without hidden ones."""
        parts = ((name, name.rpartition("/")[2]) for name in self.names)
        return [
            name
            for name, last in parts
            if os.path.splitext(last)[1].lower() in SUFFIXES and not last.startswith(".")
        ]


class FolderStore(PictureStore):
    """Files of a folder and of the folders in it."""

    @override
    @cached_property
    def names(self) -> Sequence[str]:
        found = []
        for folder, _, files in os.walk(self.path, followlinks=True):
            start = Path(folder).relative_to(self.path)
            found += [(start / file).as_posix() for file in files]
        return sorted(found)

    @override
    def open(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(f"{self.path}: no file {name}") from error

    @override
    def head(self, name: str, size: int) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(size)

    @override
    def __contains__(self, name: str) -> bool:
        return (self.path / name).is_file()

    @override
    def stamp(self, names: Sequence[str]) -> str:
        lines = []
        for name in names:
            status = (self.path / name).stat()
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        return "\n".join(lines)


class MemoryStore(PictureStore):
    """Encoded pictures that are in memory already.

    Args:
        path: What messages call the store.
        files: Bytes by name.
    """

    def __init__(self, path: Path, files: Mapping[str, bytes]) -> None:
        super().__init__(path)
        self._files = files

    @property
    @override
    def names(self) -> Sequence[str]:
        return sorted(self._files)

    @override
    def open(self, name: str) -> bytes:
        if name not in self._files:
            raise FileNotFoundError(f"{self.path}: no file {name}")
        return self._files[name]

    @override
    def __contains__(self, name: str) -> bool:
        return name in self._files

    @override
    def stamp(self, names: Sequence[str]) -> str:
        return "\n".join(f"{name} {len(self._files[name])}" for name in names)


def open_store(path: Path) -> PictureStore:
    """The store of a folder, a ``.zip``, a ``.tar`` or a ``.tar.gz`` (``.tgz``).

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it is neither of them, or an archive that cannot be read.
    """
    from datamodules.images.archives import TarStore, ZipStore

    if path.is_dir():
        return FolderStore(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or archive{looked_from(path)}")
    name = path.name.lower()
    if name.endswith(".zip"):
        return ZipStore(path)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return TarStore(path)
    raise ValueError(f"{path}: expected a folder, .zip, .tar or .tar.gz of pictures")
