"""Zip and tar files read in place: the directory once, then each file where it lies.

    archive -> directory {name: (offset, size)} -> read_at(offset, size) -> bytes

Reading at an offset moves no file position, so threads and forked workers do not disturb each other. A tar within
a tar is taken as a folder: ImageNet's training pictures are read from the one file that is downloaded.
"""

from __future__ import annotations

import io
import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from typing_extensions import override

from datamodules.images.gzip_blocks import GzipBlocks
from datamodules.images.stores import PictureStore

_LOCAL_HEADER = 30  # bytes before name and extra field of a zip entry
_LENGTHS = struct.Struct("<HH")  # of these two, at byte 26


class _Place(NamedTuple):
    offset: int
    size: int  # bytes in the archive
    crc: int = 0
    deflated: bool = False


class _Bytes(Protocol):
    def read_at(self, offset: int, size: int) -> bytes: ...


class PlainFile:
    """Reads at offsets; opened anew in each process and after unpickling.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: tuple[int, int] | None = None  # process, descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end of the file."""
        process = os.getpid()
        if self._handle is None or self._handle[0] != process:
            self._handle = (process, os.open(self._path, os.O_RDONLY))
        parts = []
        while size > 0:
            part = os.pread(self._handle[1], size, offset)
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_handle": None}

    def __del__(self) -> None:
        if self._handle is not None and self._handle[0] == os.getpid():
            os.close(self._handle[1])


class _ArchiveStore(PictureStore):
    """Files of an archive whose directory is known."""

    _bytes: _Bytes
    _places: dict[str, _Place]

    @property
    @override
    def names(self) -> Sequence[str]:
        return sorted(self._places)

    @override
    def __contains__(self, name: str) -> bool:
        return name in self._places

    @override
    def stamp(self, names: Sequence[str]) -> str:
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise FileNotFoundError(f"{self.path}: no file {name}")
        return self._places[name]


class ZipStore(_ArchiveStore):
    """Files of a zip archive, stored or deflated.

    Args:
        path: The archive.

    Raises:
        ValueError: If it is no zip archive, or has files that are encrypted or compressed in another way.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._bytes = PlainFile(path)
        self._places = {}
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: expected a whole zip archive ({error})") from error
        for entry in entries:
            if entry.is_dir():
                continue
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{path}: {entry.filename} is encrypted or neither stored nor deflated")
            self._places[posixpath.normpath(entry.filename)] = _Place(
                entry.header_offset,
                entry.compress_size,
                entry.CRC,
                entry.compress_type == zipfile.ZIP_DEFLATED,
            )

    @override
    def open(self, name: str) -> bytes:
        place = self._place(name)
        data = self._packed(name, place.size)
        try:
            content = zlib.decompress(data, -zlib.MAX_WBITS) if place.deflated else data
        except zlib.error as error:
            raise ValueError(f"{self.path}: {name} cannot be inflated ({error})") from error
        if zlib.crc32(content) != place.crc:
            raise ValueError(f"{self.path}: {name} does not have the checksum of the archive's directory")
        return content

    @override
    def head(self, name: str, size: int) -> bytes:
        place = self._place(name)
        if place.deflated:
            return super().head(name, size)
        return self._packed(name, min(size, place.size))

    def _packed(self, name: str, size: int) -> bytes:
        """The first bytes of an entry, as they lie in the archive."""
        offset = self._place(name).offset
        # name and extra field may differ in length from those of the directory
        lengths = self._bytes.read_at(offset + _LOCAL_HEADER - 4, 4)
        if len(lengths) < 4:
            raise ValueError(f"{self.path}: {name} begins behind the end of the archive")
        return self._bytes.read_at(offset + _LOCAL_HEADER + sum(_LENGTHS.unpack(lengths)), size)


class TarStore(_ArchiveStore):
    """Files of a tar archive, plain or with gzip around it.

    In a ``.tar.gz`` a file is reached by unpacking up to 2 MiB before it: slower, but nothing is written.

    Args:
        path: The archive.

    Raises:
        ValueError: If it is no tar archive, or cut short.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        self._bytes = GzipBlocks(path) if packed else PlainFile(path)
        self._places = {}
        size = self._bytes.size if isinstance(self._bytes, GzipBlocks) else path.stat().st_size
        try:
            for name, place in _members(_Window(self._bytes, 0, size)):
                if place.offset + place.size > size:
                    end = place.offset + place.size
                    raise ValueError(f"{path}: cut short: {name} would end at byte {end}, found {size} bytes")
                self._places[name] = place
        except tarfile.TarError as error:
            raise ValueError(f"{path}: expected a whole tar archive ({error})") from error

    @override
    def open(self, name: str) -> bytes:
        place = self._place(name)
        return self._bytes.read_at(place.offset, place.size)

    @override
    def head(self, name: str, size: int) -> bytes:
        place = self._place(name)
        return self._bytes.read_at(place.offset, min(size, place.size))


def _members(window: _Window) -> Iterator[tuple[str, _Place]]:
    with tarfile.open(fileobj=io.BufferedReader(window), mode="r:") as archive:
        for member in archive:
            name = posixpath.normpath(member.name)
            if member.isfile() and name.endswith(".tar"):
                inner = _Window(window.source, window.start + member.offset_data, member.size)
                for nested, place in _members(inner):
                    yield posixpath.join(name.removesuffix(".tar"), nested), place
            elif member.isfile():
                yield name, _Place(window.start + member.offset_data, member.size)
            archive.members = []  # type: ignore[attr-defined]  # a million entries are kept nowhere twice


class _Window(io.RawIOBase):
    """Part of a file as a file, for ``tarfile``."""

    def __init__(self, source: _Bytes, start: int, size: int) -> None:
        self.source, self.start, self._size, self._at = source, start, size, 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._at

    @override
    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    @override
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.source.read_at(self.start + self._at, min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
