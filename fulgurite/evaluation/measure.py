"""One measured quality of a network, kept item by item.

    items [n], weights [n], chance_items [n] -> value = sum(items) / sum(weights), chance likewise
    items [n], targets [n]                   -> value = correlation of items with targets

The items stay, because two networks are compared on the same items: what makes a window of text or a
question hard is hard for both, and drops out of the difference.

Retention is corrected for chance, ``(s - chance) / (s0 - chance)``: a network that knows nothing retains
nothing, while its raw ratio ``s / s0`` can look fine. On a four-way choice where the reference has 30 %,
guessing keeps 83 % raw and 0 % corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fulgurite.evaluation.correlation import pearson, spearman
from fulgurite.evaluation.storage import StorageError, read_arrays, write_arrays

Statistic = Literal["ratio", "pearson", "spearman"]

_ARRAYS = ("items", "weights", "chance_items")
_CORRELATIONS = {"pearson": pearson, "spearman": spearman}


@dataclass(frozen=True, eq=False)
class Measure:
    """A score with its result for each item: bits per byte over windows, accuracy over questions.

    Most scores are a ratio of two sums over the items. A correlation has no result of its own for an item:
    there the items are what the network says of each, and ``targets`` what they are held against.

    Args:
        name: Key of the measure, such as ``"bits_per_byte"``.
        items: Numerators, float64 ``[n]``; NaN where a network diverged.
        weights: Denominators, float64 ``[n]``, not negative; ones for a plain mean and for a correlation.
        chance_items: Items of a network that knows nothing of the context, float64 ``[n]``; for a correlation
            any constant, whose correlation counts as 0.
        higher_is_better: Direction of the measure.
        unit: Such as ``"bits/byte"``; with ``"%"`` the value is a fraction, to be shown as a percentage.
        statistic: How the items become a score: ``"ratio"``, ``"pearson"`` or ``"spearman"``.
        targets: The known scores that items are correlated with, float64 ``[n]``; ``None`` for a ratio.

    Raises:
        ValueError: If the arrays are empty, differ in length, or weights, chance or targets are not usable.

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
    statistic: Statistic = "ratio"
    targets: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        correlation = self.statistic in _CORRELATIONS
        if not correlation and self.statistic != "ratio":
            known = ", ".join(["ratio", *_CORRELATIONS])
            raise ValueError(f"{self.name}: statistic must be one of {known}, got {self.statistic!r}")
        if correlation != (self.targets is not None):
            needed = "needs targets" if correlation else "has no use for targets"
            raise ValueError(f"{self.name}: statistic {self.statistic!r} {needed}")
        for field in self.arrays:
            array = np.array(getattr(self, field), dtype=np.float64)  # a copy: the caller's may change
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        shapes = {field: array.shape for field, array in self.arrays.items()}
        if self.items.ndim != 1 or self.items.size == 0 or len(set(shapes.values())) != 1:
            raise ValueError(f"{self.name}: arrays must be [n] of one length from 1, got {shapes}")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise ValueError(
                f"{self.name}: weights must be finite, at least 0 and not all 0, "
                f"got [{self.weights.min()}, {self.weights.max()}]"
            )
        if not np.isfinite(self.chance_items).all():
            raise ValueError(f"{self.name}: chance_items must be finite, got NaN or infinity")
        if self.targets is not None:
            if not np.isfinite(self.targets).all():
                raise ValueError(f"{self.name}: targets must be finite, got NaN or infinity")
            if not (self.weights == 1).all():
                raise ValueError(f"{self.name}: weights must be 1 for a correlation, got others")

    @property
    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """The arrays that make up the measure, by field."""
        arrays: dict[str, NDArray[np.float64]] = {field: getattr(self, field) for field in _ARRAYS}
        return arrays if self.targets is None else {**arrays, "targets": self.targets}

    @property
    def value(self) -> float:
        """The measured score; not finite where the network diverged."""
        if self.targets is None:
            return float(self.items.sum() / self.weights.sum())
        counts = np.ones((1, self.items.size))
        return float(_CORRELATIONS[self.statistic](self.items, self.targets, counts)[0])

    @property
    def chance(self) -> float:
        """The score of a network that knows nothing of the context."""
        return self.at_chance().value

    def at_chance(self) -> Measure:
        """The same measure of a network that knows nothing of the context."""
        return replace(self, items=self.chance_items)

    def take(self, chosen: Sequence[int] | NDArray[np.int64]) -> Measure:
        """The same measure of some of the items, in the order of ``chosen``."""
        index = np.asarray(chosen, dtype=np.int64)
        parts = {field: array[index] for field, array in self.arrays.items()}
        return replace(self, **parts)  # type: ignore[arg-type]

    def gap(self, other: Measure, counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """How much better this measure is than another of the same items.

        Only ratios of two gaps over the same draws mean something: for a ratio of sums the denominators,
        which both networks have in common, are left out.

        Args:
            other: A paired measure; see ``check_paired``.
            counts: How often each resample drew each item, ``[r, n]``; each item once by default.

        Returns:
            ``[r]``, or ``[1]`` without ``counts``.
        """
        if self.targets is None:
            difference = self.sign * (self.items - other.items)
            return difference.sum(keepdims=True) if counts is None else counts @ difference
        drawn = np.ones((1, self.items.size)) if counts is None else counts
        correlate = _CORRELATIONS[self.statistic]
        here, there = (correlate(items, self.targets, drawn) for items in (self.items, other.items))
        return self.sign * (here - there)

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
        return {**self.header, **{field: _to_list(array) for field, array in self.arrays.items()}}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Measure:
        """Invert ``to_dict``.

        Raises:
            KeyError: If a field is missing.
            ValueError: If the arrays are not what a measure needs.
        """
        statistic = record.get("statistic", "ratio")  # files from before there were others do not say
        fields = _ARRAYS if statistic == "ratio" else (*_ARRAYS, "targets")
        arrays = {field: np.array(record[field], dtype=np.float64) for field in fields}  # None becomes NaN
        return cls(
            name=str(record["name"]),
            higher_is_better=bool(record["higher_is_better"]),
            unit=str(record["unit"]),
            statistic=statistic,
            **arrays,
        )

    def save(self, path: str | Path) -> None:
        """Write a compact ``.npz``, whole or not at all; ``path`` is used as it is given."""
        write_arrays(path, self.header, self.arrays)

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

    @property
    def header(self) -> dict[str, Any]:
        """All but the arrays, as plain JSON."""
        fields = ("name", "higher_is_better", "unit", "statistic")
        return {field: getattr(self, field) for field in fields}


def is_binary(measure: Measure) -> bool:
    """Whether each item is right or wrong and counts once."""
    return (
        measure.statistic == "ratio"
        and bool((measure.weights == 1).all())
        and bool(np.isin(measure.items, (0.0, 1.0)).all())
    )


def check_paired(reference: Measure, candidate: Measure) -> None:
    """Make sure that two measures are of the same items, so that they can be compared item by item.

    Raises:
        ValueError: If name, direction, statistic, item count, weights or targets differ.
    """
    if candidate.statistic != reference.statistic:
        raise ValueError(
            f"{reference.name}: candidate must have the reference's statistic {reference.statistic!r}, "
            f"got {candidate.statistic!r}"
        )
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
    for field in ("weights", "targets"):
        ours, theirs = reference.arrays.get(field), candidate.arrays.get(field)
        if ours is not None and theirs is not None and not np.array_equal(theirs, ours):
            different = int((theirs != ours).sum())
            raise ValueError(
                f"{reference.name}: candidate must have the reference's {field}, got {different} that differ"
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
    margin = float(reference.gap(reference.at_chance())[0])
    if margin == 0:
        raise ValueError(
            f"{reference.name}: reference must differ from chance, got {reference.value} for both"
        )
    # as 1 - loss / margin an equal network gives exactly 1; the weights cancel
    return 1.0 - float(reference.gap(candidate)[0]) / margin


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
