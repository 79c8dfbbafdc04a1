"""Libraries that only benchmarks of pictures need, and what to say where one is missing."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str) -> Any:
    """A module of a library that the ``vision`` extra brings.

    Raises:
        ImportError: If it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"expected {module.partition('.')[0]} to be installed, found no module {error.name}: "
            "pip install 'fulgurite[vision]'",
            name=error.name,
        ) from error
