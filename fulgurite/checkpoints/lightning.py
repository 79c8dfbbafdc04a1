"""Lightning's checkpoints of a ``fit`` run, without importing torch.

checkpoints/epoch=3-step=100.ckpt -> epoch, step by its name;  last.ckpt -> by its pickle, which is read, not run
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_NAME = re.compile(r"(\w+)=(-?[\d.]+?)(?=-|\.ckpt$|$)")
_MOST = 100_000_000  # bytes of a pickle that are read at most


@dataclass(frozen=True)
class LightningCheckpoint:
    """A checkpoint that training can go on from.

    Args:
        path: The file.
        epoch: Counted from 0; ``None`` where neither name nor content says.
        step: Optimiser steps done.
        num_bytes: On disk.
        when: When it was written, ISO 8601.
    """

    path: Path
    epoch: int | None
    step: int | None
    num_bytes: int
    when: str

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self) | {"path": str(self.path)}


def read_lightning_checkpoints(run: Path | str) -> list[LightningCheckpoint]:
    """The checkpoints of a ``fit`` run, in the order of their steps; none where it has no such folder."""
    found = [_read(path) for path in sorted(Path(run).glob("checkpoints/*.ckpt"))]
    return sorted(
        found, key=lambda checkpoint: (checkpoint.step is None, checkpoint.step or 0, checkpoint.path)
    )


def _read(path: Path) -> LightningCheckpoint:
    status = path.stat()
    named = {key: value for key, value in _NAME.findall(path.name)}
    content = {} if {"epoch", "step"} <= named.keys() else _content(path)
    return LightningCheckpoint(
        path,
        _whole(named.get("epoch"), content.get("epoch")),
        _whole(named.get("step"), content.get("global_step")),
        status.st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*")),
        datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds"),
    )


def _whole(named: str | None, stored: int | None) -> int | None:
    return int(named) if named is not None and named.isdecimal() else stored


def _content(path: Path) -> dict[str, int]:
    """Whole numbers that follow the keys ``epoch`` and ``global_step``: the first two of Lightning's dictionary."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > _MOST:
                return {}
            pickled = archive.read(name)
        found: dict[str, int] = {}
        key = None
        for opcode, argument, _ in pickletools.genops(pickled):
            if "PUT" in opcode.name or opcode.name == "MEMOIZE":
                continue  # the number of a PUT is a place in the memo
            if "UNICODE" in opcode.name:
                key = argument
            elif isinstance(argument, int) and key in ("epoch", "global_step") and key not in found:
                found[key] = argument
            else:
                key = None
            if len(found) == 2:
                break
    except (OSError, ValueError, zipfile.BadZipFile):  # cut, or of another program
        return {}
    return found
