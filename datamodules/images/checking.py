"""Which pictures are missing or cannot be decoded, found once before they are needed.

    names -> in the store? -> opens? -> all of it decodes? -> {name: reason} -> kept in a file where it took long

Deciding beforehand makes every epoch, rank and resumed run see the same pictures.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from datamodules.images.decoding import broken_because
from datamodules.images.kept import kept
from datamodules.images.stores import PictureStore

logger = logging.getLogger(__name__)
Check = Literal["decode", "header", "exists"]
"""How far a picture is read to find out whether it is broken: all of it, its header, or only its name."""
_HEADER = 1 << 16  # bytes that nearly all headers fit in
_FORMAT = "2"  # change when the meaning of the kept files does


def broken_pictures(
    store: PictureStore, names: Sequence[str], check: Check, cache_dir: Path, keep_after_s: float = 2.0
) -> dict[str, str]:
    """Why each picture that cannot be used cannot.

    Args:
        store: Where the pictures are.
        names: Names in the store.
        check: How far each is read.
        cache_dir: Folder that the result is kept in, by the sizes and times of the files.
        keep_after_s: It is kept where it took longer.

    Returns:
        Reasons by name, in the order of ``names``; empty if all can be used.
    """
    broken = {name: "missing" for name in names if name not in store}
    there = [name for name in names if name not in broken]
    if check == "exists":
        return broken
    found: dict[str, str] = kept(
        cache_dir,
        "pictures",
        (_FORMAT, check),
        store,
        there,
        lambda: _read_all(store, there, whole=check == "decode"),
        keep_after_s,
    )
    broken.update(found)
    return {name: broken[name] for name in names if name in broken}


def _read_all(store: PictureStore, names: Sequence[str], whole: bool) -> dict[str, str]:
    def reason(name: str) -> str | None:
        try:
            if not whole and broken_because(store.head(name, _HEADER), whole=False) is None:
                return None  # else its header may be longer
            return broken_because(store.open(name), whole)
        except (OSError, ValueError) as error:
            return str(error)

    # decoding leaves Python's lock, so threads use all cores
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        reasons = pool.map(reason, names, chunksize=64)
        return {name: why for name, why in zip(names, reasons, strict=True) if why is not None}
