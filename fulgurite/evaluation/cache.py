"""Results that are measured once: the reference's scores, kept under the hash of what decides them.

parts (weights, data, settings) -> canonical JSON -> SHA-256 -> <key>.npz
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.storage import StorageError

logger = logging.getLogger(__name__)


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


def cached_result(cache_dir: str | Path, key: str, compute: Callable[[], Evaluation]) -> Evaluation:
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
        return Evaluation.load(path, key)
    except FileNotFoundError:
        pass
    except StorageError as error:
        logger.warning("measuring again: %s", error)
    result = compute()
    try:
        result.save(path, key)
    except OSError as error:
        logger.warning("the result is not cached: %s", error)
    return result
