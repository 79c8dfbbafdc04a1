"""Reading a gzip file at any offset, without unpacking it to the disk.

    pass over the file once -> a copy of the decompressor every 2 MiB -> read_at: from the last copy before the offset

The state of zlib at a place is its window of 32 KiB and little more, so a copy costs about 45 KB of memory.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

_BLOCK = 2 << 20  # bytes of content between copies: 10 ms to unpack, 2 % of the content's size in memory
_CHUNK = 1 << 16  # bytes of the packed file at a time
_KEPT = 8  # unpacked blocks in memory
_GZIP = zlib.MAX_WBITS | 16


class _Mark(NamedTuple):
    offset: int  # in the content
    decompressor: Any
    pending: bytes  # packed bytes that were read and not used
    position: int  # in the packed file, after ``pending``


class GzipBlocks:
    """Content of a gzip file by offset.

    Args:
        path: The file; it may have several members, as parallel packers write them.

    Raises:
        ValueError: If the file is no gzip file, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        mark = _Mark(0, zlib.decompressobj(_GZIP), b"", 0)
        self._marks = [mark]
        while True:
            content, following = self._block(mark)
            if len(content) < _BLOCK:
                self.size = mark.offset + len(content)
                return
            mark = following
            self._marks.append(mark)

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the content from ``offset`` on, fewer at its end."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        first, last = offset // _BLOCK, (end - 1) // _BLOCK
        content = b"".join(self._kept_block(number) for number in range(first, last + 1))
        return content[offset - first * _BLOCK : end - first * _BLOCK]

    def _kept_block(self, number: int) -> bytes:
        with self._lock:
            if number not in self._kept:
                self._kept[number], _ = self._block(self._marks[number])
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]

    def _block(self, mark: _Mark) -> tuple[bytes, _Mark]:
        """The block that begins at a mark, and the mark behind it."""
        decompressor, pending, left = mark.decompressor.copy(), mark.pending, _BLOCK
        parts = []
        with self._path.open("rb") as file:
            file.seek(mark.position)
            try:
                while left:
                    if decompressor.eof:  # of one member; another may follow
                        pending = (decompressor.unused_data or pending).lstrip(b"\0")
                        pending = pending or file.read(_CHUNK).lstrip(b"\0")
                        if not pending:
                            break
                        decompressor = zlib.decompressobj(_GZIP)
                    pending = pending or file.read(_CHUNK)
                    parts.append(decompressor.decompress(pending, left))
                    if not pending and not parts[-1] and not decompressor.eof:
                        raise ValueError(f"{self._path}: cut short: the gzip stream has no end")
                    left -= len(parts[-1])
                    pending = decompressor.unconsumed_tail
            except zlib.error as error:
                raise ValueError(f"{self._path}: expected a gzip file ({error})") from error
            at = mark.offset + _BLOCK - left
            return b"".join(parts), _Mark(at, decompressor, pending, file.tell())

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path}  # decompressors cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._path = state["_path"]
        self._start()
