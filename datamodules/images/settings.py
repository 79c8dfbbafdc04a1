"""Refusing settings that cannot be, by name.

name=value -> in range? one of the known? -> ValueError that says what was expected and what came
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def at_least(least: int, **values: int | None) -> None:
    """Raise ``ValueError`` for a value below ``least``; ``None`` stands for no limit."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def one_of(known: Sequence[str | int], **values: str | int) -> None:
    """Raise ``ValueError`` for a value that is not among ``known``."""
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")


def looked_from(path: Path | str) -> str:
    """What a message about a missing file says beside a relative path: which folder it starts from."""
    return "" if Path(path).is_absolute() else f" (looked from {Path.cwd()})"
