"""The scores of one network in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.storage import StorageError, read_arrays, write_arrays

_FORMAT = 2  # of 1 are files from before there were correlations; they are read all the same


@dataclass(frozen=True)
class Evaluation:
    """Scores of a network on held-out data.

    Args:
        measures: What a gate decides by, item by item.
        facts: Plain numbers beside them, such as the perplexity; ``None`` or NaN where there is none.
    """

    measures: Sequence[Measure]
    facts: Mapping[str, float | None] = field(default_factory=dict)

    def save(self, path: str | Path, key: str = "") -> None:
        """Write all of it to one ``.npz``, whole or not at all.

        Args:
            path: The file; its folder is made where it is missing.
            key: What the scores belong to; ``load`` compares it.
        """
        facts = {name: _finite(value) for name, value in self.facts.items()}
        header = {
            "format": _FORMAT,
            "key": key,
            "facts": facts,
            "measures": [m.header for m in self.measures],
        }
        arrays = {
            f"{index}/{name}": array
            for index, measure in enumerate(self.measures)
            for name, array in measure.arrays.items()
        }
        write_arrays(path, header, arrays)

    @classmethod
    def load(cls, path: str | Path, key: str = "") -> Evaluation:
        """Invert ``save``.

        Raises:
            FileNotFoundError: If there is no file.
            StorageError: If the file is not an evaluation, or one of another key.
        """
        header, arrays = read_arrays(path)
        if header.get("format") not in (1, _FORMAT) or header.get("key") != key:
            raise StorageError(f"{path}: not an evaluation of format {_FORMAT} for this key")
        try:
            measures = [
                Measure.from_dict({**described, **_arrays_of(index, arrays)})
                for index, described in enumerate(header["measures"])
            ]
            return cls(measures, dict(header["facts"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{path}: not an evaluation: {error!r}") from error


def _arrays_of(index: int, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of one measure, by field."""
    prefix = f"{index}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
