"""Named arrays and a header in one file, written whole or not at all.

    header (JSON) + arrays -> .npz in a temporary file -> rename

One file, so that a crash can't leave half of a pair; no pickle, so that a file from elsewhere is only data.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.artifact.files import write_file

_HEADER = "header"
_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(AttributeError, TypeError),  # a .npy loads as a bare array, which is no context and has no files
    MemoryError,  # a damaged shape can claim any size
)


class StorageError(ValueError):
    """A file does not hold what ``write_arrays`` wrote."""


def write_arrays(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a JSON header and named arrays as a compressed ``.npz``, replacing ``path`` in one step.

    Args:
        path: The file; its folder is made where it is missing.
        header: Plain JSON values.
        arrays: Arrays of numbers; no name may be ``"header"``.

    Raises:
        ValueError: If an array is called ``"header"`` or the header is not plain JSON.
        OSError: If the folder cannot be written.
    """
    if _HEADER in arrays:
        raise ValueError(f"array names must differ from {_HEADER!r}, got {sorted(arrays)}")
    parts: dict[str, Any] = {_HEADER: np.array(json.dumps(header, allow_nan=False)), **arrays}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts)
    write_file(Path(path), buffer.getvalue())


def read_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Invert ``write_arrays``.

    Raises:
        FileNotFoundError: If there is no file.
        StorageError: If the file was cut short, altered, or written by something else.
    """
    try:
        # numpy leaves a file that it cannot read open
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop(_HEADER)))
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise StorageError(f"{path}: not a readable archive of arrays: {error!r}") from error
    if not isinstance(header, dict):
        raise StorageError(f"{path}: the header must be an object, got {type(header).__name__}")
    return header, arrays
