"""One measured quality of a network, kept item by item.

    items [n], weights [n], chance_items [n] -> value = sum(items) / sum(weights), chance likewise

The items stay, because two networks are compared on the same items: what makes a window of text or a
question hard is hard for both, and drops out of the difference.

Retention is corrected for chance, ``(s - chance) / (s0 - chance)``: a network that knows nothing retains
nothing, while its raw ratio ``s / s0`` can look fine. On a four-way choice where the reference has 30 %,
guessing keeps 83 % raw and 0 % corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.evaluation.storage import StorageError, read_arrays, write_arrays

_ARRAYS = ("items", "weights", "chance_items")


@dataclass(frozen=True, eq=False)
class Measure:
    """A ratio of sums over items: bits per byte over windows, accuracy over questions.

    Args:
        name: Key of the measure, such as ``"bits_per_byte"``.
        items: Numerators, float64 ``[n]``; NaN where a network diverged.
        weights: Denominators, float64 ``[n]``, not negative; ones for a plain mean.
        chance_items: Numerators of a network that knows nothing of the context, float64 ``[n]``.
        higher_is_better: Direction of the measure.
        unit: Such as ``"bits/byte"``; with ``"%"`` the value is a fraction, to be shown as a percentage.

    Raises:
        ValueError: If the arrays are empty, differ in length, or weights or chance are not usable.

    Example:
        >>> answers = Measure("quiz", np.array([1, 1, 0, 1]), np.ones(4), np.full(4, 0.25), True, "%")
        >>> answers.value, answers.chance
        (0.75, 0.25)
    """

    name: str
    items: NDArray[np.float64]
    weights: NDArray[np.float64]
    chance_items: NDArray[np.float64]
    higher_is_better: bool
    unit: str

    def __post_init__(self) -> None:
        for field in _ARRAYS:
            array = np.array(getattr(self, field), dtype=np.float64)  # a copy: the caller's may change
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        shapes = {field: getattr(self, field).shape for field in _ARRAYS}
        if self.items.ndim != 1 or self.items.size == 0 or len(set(shapes.values())) != 1:
            raise ValueError(f"{self.name}: arrays must be [n] of one length from 1, got {shapes}")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise ValueError(
                f"{self.name}: weights must be finite, at least 0 and not all 0, "
                f"got [{self.weights.min()}, {self.weights.max()}]"
            )
        if not np.isfinite(self.chance_items).all():
            raise ValueError(f"{self.name}: chance_items must be finite, got NaN or infinity")

    @property
    def value(self) -> float:
        """The measured score; not finite where the network diverged."""
        return float(self.items.sum() / self.weights.sum())

    @property
    def chance(self) -> float:
        """The score of a network that knows nothing of the context."""
        return float(self.chance_items.sum() / self.weights.sum())

    @property
    def num_not_finite(self) -> int:
        """Items without a number: a network that diverged has some."""
        return int((~np.isfinite(self.items)).sum())

    @property
    def sign(self) -> int:
        """+1 where higher is better, else -1: turns differences into gains."""
        return 1 if self.higher_is_better else -1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: lists of numbers, with ``None`` for what is not finite."""
        record: dict[str, Any] = {field: _to_list(getattr(self, field)) for field in _ARRAYS}
        return {**self._header(), **record}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Measure:
        """Invert ``to_dict``.

        Raises:
            KeyError: If a field is missing.
            ValueError: If the arrays are not what a measure needs.
        """
        arrays = {field: np.array(record[field], dtype=np.float64) for field in _ARRAYS}  # None becomes NaN
        return cls(
            name=str(record["name"]),
            higher_is_better=bool(record["higher_is_better"]),
            unit=str(record["unit"]),
            **arrays,
        )

    def save(self, path: str | Path) -> None:
        """Write a compact ``.npz``, whole or not at all; ``path`` is used as it is given."""
        write_arrays(path, self._header(), {field: getattr(self, field) for field in _ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> Measure:
        """Invert ``save``.

        Raises:
            FileNotFoundError: If there is no file.
            StorageError: If the file is not a saved measure; it is a ``ValueError``.
        """
        header, arrays = read_arrays(path)
        try:
            return cls.from_dict({**header, **arrays})
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{path}: not a saved measure: {error!r}") from error

    def _header(self) -> dict[str, Any]:
        return {"name": self.name, "higher_is_better": self.higher_is_better, "unit": self.unit}


def check_paired(reference: Measure, candidate: Measure) -> None:
    """Make sure that two measures are of the same items, so that they can be compared item by item.

    Raises:
        ValueError: If name, direction, item count or weights differ.
    """
    if (candidate.name, candidate.higher_is_better) != (reference.name, reference.higher_is_better):
        raise ValueError(
            f"measures must be paired by name and direction, got {reference.name!r} "
            f"(higher is better: {reference.higher_is_better}) and {candidate.name!r} "
            f"(higher is better: {candidate.higher_is_better})"
        )
    if candidate.items.size != reference.items.size:
        raise ValueError(
            f"{reference.name}: candidate must have the reference's {reference.items.size} items, "
            f"got {candidate.items.size}"
        )
    if not np.array_equal(candidate.weights, reference.weights):
        different = int((candidate.weights != reference.weights).sum())
        raise ValueError(
            f"{reference.name}: candidate must have the reference's weights, got {different} that differ"
        )


def retention(reference: Measure, candidate: Measure) -> float:
    """Share of the reference's advantage over chance that is left: ``(s - chance) / (s0 - chance)``.

    The same formula serves both directions, as both differences change sign. ``chance`` is the reference's.

    Returns:
        1 for an equal network, 0 at chance, negative below chance, NaN for a diverged candidate.

    Raises:
        ValueError: If the two are not paired or the reference is exactly at chance.
    """
    check_paired(reference, candidate)
    margin = float((reference.items - reference.chance_items).sum())
    if margin == 0:
        raise ValueError(
            f"{reference.name}: reference must differ from chance, got {reference.value} for both"
        )
    # as 1 - loss / margin an equal network gives exactly 1; the weights cancel
    return 1.0 - float((reference.items - candidate.items).sum()) / margin


def raw_ratio(reference: Measure, candidate: Measure) -> float:
    """The ratio without regard to chance, at most 1 for a loss: ``s / s0``, or ``s0 / s`` if lower is better.

    NaN where it is not defined.
    """
    above, below = candidate.value, reference.value
    if not reference.higher_is_better:
        above, below = below, above
    return above / below if below != 0 else float("nan")


def _to_list(array: NDArray[np.float64]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in array.tolist()]
