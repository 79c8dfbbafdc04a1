"""Findings about pictures that took long, kept in a file until the pictures change.

    what is asked, store's stamp, names -> SHA-256 -> file in cache_dir -> read | found anew and kept if that took long

Reading a file that another process writes never gives a part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datamodules.images.stores import PictureStore


def kept(
    cache_dir: Path,
    kind: str,
    asked: Sequence[str],
    store: PictureStore,
    names: Sequence[str],
    find: Callable[[], Any],
    keep_after_s: float,
) -> Any:
    """What ``find`` gives, or gave before for the same pictures.

    Args:
        cache_dir: Folder of what is kept.
        kind: What names of files begin with.
        asked: What it depends on besides the pictures.
        store: Where the pictures are; by its stamp, sizes and times of its files.
        names: The pictures, all in the store.
        find: Gives plain JSON.
        keep_after_s: It is kept where it took longer.
    """
    key = hashlib.sha256()
    for part in (*asked, str(store.path.resolve()), store.stamp(names), *names):
        key.update(part.encode("utf-8", "surrogateescape") + b"\n")
    path = cache_dir / f"{kind}-{key.hexdigest()[:32]}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    start = time.monotonic()
    found = find()
    if time.monotonic() - start > keep_after_s:
        _write(path, found)
    return found


def _write(path: Path, found: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
    os.replace(partial, path)
