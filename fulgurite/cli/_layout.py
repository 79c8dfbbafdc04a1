"""Our four packages have plain names: make sure that no other package of that name is in their place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PACKAGES = ("lightning_modules", "callbacks", "datamodules")


def check_layout() -> None:
    """Check that the packages beside ``fulgurite`` are ours.

    Raises:
        ImportError: If another file would be imported; names it.
    """
    home = Path(__file__).resolve().parents[2]
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
        if found != home / package:
            raise ImportError(
                f"expected package {package!r} in {home}, found {found}: another package of that name shadows it; "
                "install fulgurite in an environment of its own"
            )
