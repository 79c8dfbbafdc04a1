"""The record of a run: one JSON document, checked and replaced as a whole.

record -> json_ready -> check_record -> temporary file -> fsync -> os.replace -> record.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.artifact.files import write_file
from fulgurite.reporting.schema import check_record

RECORD_NAME = "record.json"


def write_record(path: str | Path, record: Mapping[str, Any]) -> Path:
    """Check a record and put it in the place of the old one.

    Nothing is lost: where the record is wrong or the disk is full, the old file stays as it was.

    Args:
        path: The file, usually ``<run>/record.json``; its folder is made where it is missing.
        record: As ``docs/record.md`` describes it; tuples, paths and numpy numbers may stand for their
            JSON forms, NaN and infinity become null.

    Returns:
        The path that was written.

    Raises:
        ValueError: If the record does not fit the schema; names the key, expected and found.
        TypeError: If a value has no JSON form.
    """
    path = Path(path)
    ready = json_ready(record)
    check_record(ready, str(path))
    text = json.dumps(ready, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode())
    return path


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a record and check it.

    Args:
        path: The file, or the run's folder with ``record.json`` in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or does not fit the schema; names the path and the key.
    """
    path = Path(path)
    if path.is_dir():
        path /= RECORD_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such record; a run writes it to its output folder")
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError, or bytes that are not UTF-8
        raise ValueError(f"{path}: must be JSON, got: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: the record must be object, got {type(record).__name__}")
    check_record(record, str(path))
    return record


def json_ready(value: Any, where: str = "") -> Any:
    """The same value in JSON's own types.

    Tuples and lists become lists, paths strings, numpy numbers Python's, NaN and infinity ``None``; bytes of a file
    name that are not UTF-8 are spelt out.

    Args:
        value: Nested mappings, sequences and scalars.
        where: Key of the value, for the error.

    Raises:
        TypeError: If a part has no JSON form, or a mapping has keys that are not strings.

    Example:
        >>> json_ready({"loss": float("nan"), "shape": (2, 3)})
        {'loss': None, 'shape': [2, 3]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys of {where or 'the record'} must be str, got {key!r}")
        return {key: json_ready(part, f"{where}.{key}".lstrip(".")) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(part, f"{where}[{index}]") for index, part in enumerate(value)]
    raise TypeError(f"{where or 'the record'} must have a JSON form, got {type(value).__name__}")
