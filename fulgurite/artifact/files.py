"""Files of an artefact, read with bounds and written whole or not at all. No torch here.

A folder is written beside its place under a temporary name, synced, and renamed over the old one: a full
disk or a kill at any moment leaves either the old folder or the new one.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.artifact.errors import ArtifactError

WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "fulgurite.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
)

# bytes of an element; the names are safetensors' own
DTYPE_BYTES = {
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
_MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file; ``start`` and ``stop`` count from the file's first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read where each tensor of a safetensors file lies, without reading the tensors.

    Raises:
        ArtifactError: If the file is missing, cut short, or its header contradicts its size.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; an artefact keeps its weights there")
    size = path.stat().st_size
    if size < 8:
        raise ArtifactError(f"{path}: a safetensors file has at least 8 bytes, this one has {size}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            raise ArtifactError(
                f"{path}: header at byte 8 claims {length} bytes, the file has {size - 8} left"
            )
        raw = file.read(length)
    header = _parse_json(path, raw)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            first, last = (int(offset) for offset in entry["data_offsets"])
        except (TypeError, KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: header of tensor {name!r} is malformed: {entry!r:.80}") from error
        if dtype not in DTYPE_BYTES:
            raise ArtifactError(
                f"{path}: tensor {name!r} has dtype {dtype!r}, known are {', '.join(DTYPE_BYTES)}"
            )
        start, stop = 8 + length + first, 8 + length + last
        expected = num_bytes(dtype, shape)
        if not 0 <= first <= last or stop > size or stop - start != expected:
            raise ArtifactError(
                f"{path}: tensor {name!r} of shape {list(shape)} needs {expected} bytes at byte {start}, "
                f"the header gives it {last - first} and the file ends at byte {size}"
            )
        tensors[name] = StoredTensor(dtype, shape, start, stop)
    end = max((tensor.stop for tensor in tensors.values()), default=8 + length)
    if end != size:
        raise ArtifactError(f"{path}: the tensors end at byte {end}, the file at byte {size}")
    return tensors


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; a negative extent counts as an impossible size."""
    count = 1
    for extent in shape:
        if extent < 0:
            return -1
        count *= extent
    return count * DTYPE_BYTES[dtype]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: If the file is missing or does not hold an object.
    """
    try:
        return _parse_json(path, path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; is {path.parent} an artefact folder?") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected JSON, got {raw[:40]!r}... ({error})") from error
    if not isinstance(parsed, dict):
        raise ArtifactError(f"{path}: expected a JSON object, got {type(parsed).__name__}")
    return parsed


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files of a folder, whatever their dates."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make ``folder`` hold what ``fill`` writes into an empty one, all of it or nothing.

    Raises:
        OSError: If the disk is full, say; ``folder`` is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.parent / f".{folder.name}.new-{os.getpid()}"
    stale = folder.parent / f".{folder.name}.old-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        fill(fresh)
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        if not folder.exists():
            fresh.rename(folder)
        elif not _exchange(fresh, folder):
            folder.rename(stale)
            fresh.rename(folder)
        _sync(folder.parent)
    except BaseException:
        if stale.exists() and not folder.exists():
            stale.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(stale, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)  # after an exchange, what was there before


def clean_leftovers(folder: Path) -> None:
    """Remove what a killed writer left below ``folder``, and put back what it was about to replace."""
    for stale in [*folder.rglob(".*.old-*")]:
        home = stale.with_name(stale.name[1:].rpartition(".old-")[0])
        if not home.exists():
            stale.rename(home)
    for leftover in [*folder.rglob(".*.old-*"), *folder.rglob(".*.new-*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux); ``False`` where it cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by ``data``, all of it or nothing.

    Raises:
        OSError: If the disk is full, say; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        fresh.write_bytes(data)
        _sync(fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sizes(folder: Path, names: Mapping[str, object] | None = None) -> dict[str, int]:
    """Bytes of each file of a folder, by its relative name; of ``names`` only where given."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (names is None or path.name in names)
    }
