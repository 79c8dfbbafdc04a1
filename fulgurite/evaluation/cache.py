"""Results that are measured once: the reference's scores, kept under the hash of what decides them.

parts (weights, data, settings) -> canonical JSON -> SHA-256 -> <key>.npz
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fulgurite.evaluation.language import LanguageResult
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.storage import StorageError, read_arrays, write_arrays

logger = logging.getLogger(__name__)

_FORMAT = 1
_ARRAYS = ("items", "weights", "chance_items")
_FACTS = ("perplexity", "tokens", "bytes", "seconds")


def reference_cache_key(parts: Mapping[str, str | int | float]) -> str:
    """SHA-256 of all that a result depends on; the order of the parts does not matter.

    Args:
        parts: Such as the hash of the weights, the hash of the text, the window and the dtype.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If there is no part or a number is not finite.

    Example:
        >>> reference_cache_key({"weights": "91c2", "window": 256})[:12]
        'ec2d87917936'
    """
    if not parts:
        raise ValueError("parts must name what the result depends on, got none")
    try:
        text = json.dumps(dict(parts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ValueError(f"parts must be finite, got {dict(parts)}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def cached_result(cache_dir: str | Path, key: str, compute: Callable[[], LanguageResult]) -> LanguageResult:
    """The result stored under ``key``, or else the computed one, which is then stored.

    A damaged file is computed again and replaced; a folder that cannot be written costs only the time of the
    next run. Both are logged as warnings. Processes that write the same key at once do no harm.

    Args:
        cache_dir: Folder of the cache, made where it is missing.
        key: From ``reference_cache_key``.
        compute: Measures the result.

    Raises:
        ValueError: If ``key`` is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ValueError(f"key must be 64 hexadecimal digits, got {key!r}")
    path = Path(cache_dir) / f"{key}.npz"
    try:
        return _read(path, key)
    except FileNotFoundError:
        pass
    except StorageError as error:
        logger.warning("measuring again: %s", error)
    result = compute()
    try:
        _write(path, key, result)
    except OSError as error:
        logger.warning("the result is not cached: %s", error)
    return result


def _write(path: Path, key: str, result: LanguageResult) -> None:
    facts = {fact: getattr(result, fact) for fact in _FACTS}
    if not math.isfinite(result.perplexity):
        facts["perplexity"] = None
    described = [
        {"name": measure.name, "higher_is_better": measure.higher_is_better, "unit": measure.unit}
        for measure in result.measures
    ]
    header = {"format": _FORMAT, "key": key, "facts": facts, "measures": described}
    arrays = {
        f"{index}/{field}": getattr(measure, field)
        for index, measure in enumerate(result.measures)
        for field in _ARRAYS
    }
    write_arrays(path, header, arrays)


def _read(path: Path, key: str) -> LanguageResult:
    header, arrays = read_arrays(path)
    if (header.get("format"), header.get("key")) != (_FORMAT, key):
        raise StorageError(f"{path}: not a cached result of format {_FORMAT} for this key")
    try:
        measures = tuple(
            Measure.from_dict({**described, **{field: arrays[f"{index}/{field}"] for field in _ARRAYS}})
            for index, described in enumerate(header["measures"])
        )
        facts: dict[str, Any] = {fact: header["facts"][fact] for fact in _FACTS}
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path}: not a cached result: {error!r}") from error
    if facts["perplexity"] is None:
        facts["perplexity"] = math.nan
    return LanguageResult(measures=measures, **facts)
