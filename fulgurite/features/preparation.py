"""All that was learned of a table's features, kept, so that new rows are treated as those it was learned from.

table -> train rows -> clean -> find_categories -> Preparation -> JSON
new rows [rows, columns] -> Preparation.apply -> standardised features [rows, kept]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.features.categories import Categories, Wanted, find_categories
from fulgurite.features.cleaning import CleaningSettings, clean
from fulgurite.features.tables import Block, Table

_VERSION = 1


@dataclass(frozen=True)
class Split:
    """Which rows belong to which part: by a number that follows from the seed and the row's place alone.

    Args:
        validation: Share of the rows.
        test: The same.
        seed: Of the draw.

    Raises:
        ValueError: If nothing is left to train on.
    """

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test must be shares that leave rows to train on, got {self.validation} and {self.test}"
            )

    def of(self, start: int, count: int) -> NDArray[np.int8]:
        """0 train, 1 validation, 2 test, for ``count`` rows from row ``start``."""
        # splitmix64: a row's part does not depend on how many rows there are, or on the blocks they come in
        with np.errstate(over="ignore"):
            key = np.arange(start, start + count, dtype=np.uint64) + np.uint64(self.seed << 40)
            key *= np.uint64(0x9E3779B97F4A7C15)
            key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        drawn = (key ^ (key >> np.uint64(31))).astype(np.float64) / 2.0**64
        return np.where(drawn < self.test, 2, np.where(drawn < self.test + self.validation, 1, 0)).astype(
            np.int8
        )


@dataclass(frozen=True)
class Preparation:
    """What was learned from train rows.

    Args:
        columns: Names of all columns of the table.
        kept: Names of the features that stay, in the order of ``apply``'s columns.
        categories: Places among the kept ones, by category.
        low, high: Limits of their values.
        mean, scale: Of their values within the limits.
        report: What was dropped and why, and what was mended.
        split: Which rows it was learned from.
    """

    columns: tuple[str, ...]
    kept: tuple[str, ...]
    categories: Categories
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    report: dict[str, Any] = field(default_factory=dict)
    split: Split = Split()

    def apply(self, block: Block, columns: Sequence[str] | None = None) -> Block:
        """Standardised features of rows; what is missing becomes the mean, which is 0.

        Args:
            block: ``[rows, columns]``.
            columns: Its columns, where they may stand in another order, or with others between them.

        Raises:
            ValueError: If a feature that stays is not there.
        """
        found = np.asarray(block, np.float64)[:, self._places(columns or self.columns)]
        low, high, mean, scale = (np.asarray(getattr(self, key)) for key in ("low", "high", "mean", "scale"))
        finite = np.isfinite(found)
        limited = np.clip(np.where(finite, found, mean), low, high)
        standardised: Block = ((limited - mean) / scale).astype(np.float32)
        return standardised

    def restore(self, values: Block) -> Block:
        """Features in the table's units, ``[rows, kept]``."""
        restored: Block = (
            np.asarray(values, np.float64) * np.asarray(self.scale) + np.asarray(self.mean)
        ).astype(np.float32)
        return restored

    def _places(self, columns: Sequence[str]) -> NDArray[np.int64]:
        places = {name: place for place, name in enumerate(columns)}
        missing = [name for name in self.kept if name not in places]
        if missing:
            raise ValueError(
                f"expected the {len(self.kept)} features that were learned from, {len(missing)} are not there: "
                f"{', '.join(missing[:4])}"
            )
        return np.array([places[name] for name in self.kept], np.int64)

    def check_categories(self, names: Sequence[str]) -> None:
        """Raise unless all categories were there when it was learned.

        Raises:
            ValueError: If one was never seen.
        """
        unseen = [name for name in names if name not in self.categories]
        if unseen:
            raise ValueError(
                f"category {unseen[0]!r} was never seen; those that were learned are {', '.join(self.categories)}"
            )

    def write(self, path: Path) -> None:
        """Write JSON."""
        from fulgurite.artifact.files import write_file

        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Preparation:
        """Read what ``write`` wrote.

        Raises:
            ValueError: If it is not that.
        """
        try:
            return cls.from_dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: expected what a table's preparation has found ({error!r})") from error

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Preparation:
        """Of plain values."""
        known = dict(known)
        if known.pop("version") != _VERSION:
            raise ValueError(f"version must be {_VERSION}")
        rows: dict[str, Any] = {
            key: tuple(known.pop(key)) for key in ("columns", "kept", "low", "high", "mean", "scale")
        }
        return cls(**rows, split=Split(**known.pop("split")), **known)


def prepare(
    table: Table,
    *,
    cleaning: CleaningSettings = CleaningSettings(),  # noqa: B008  (frozen)
    categories: Wanted = "auto",
    smallest: int = 4,
    split: Split = Split(),
    check: Callable[[], None] = lambda: None,
) -> Preparation:
    """Learn from a table's train rows, block by block.

    Args:
        table: Read once.
        cleaning: What goes.
        categories: As ``find_categories`` takes them.
        smallest: Features of the smallest cluster.
        split: Which rows are for training.
        check: Called after each block.

    Raises:
        ValueError: If no feature or too few rows are left; the table is named.
    """
    try:
        found = clean(table.columns, _train_blocks(table, split), cleaning, split.seed, check)
        names = tuple(table.columns[place] for place in found.kept)
        groups = find_categories(names, found.sample, categories, smallest)
    except ValueError as error:
        raise ValueError(f"{table.source}: {error}") from error
    report = {
        "source": table.source,
        "rows": found.rows,
        "columns": len(table.columns),
        "kept": len(names),
        "not_numbers": list(table.skipped),
        "dropped": found.dropped,
        "missing_values": found.missing,
        "outliers_in_sample": found.outliers,
        "sample_rows": len(found.sample),
    }
    low, high, mean, scale = (
        tuple(values.tolist()) for values in (found.low, found.high, found.mean, found.scale)
    )
    return Preparation(tuple(table.columns), names, groups, low, high, mean, scale, report, split)


def _train_blocks(table: Table, split: Split) -> Any:
    start = 0
    for block in table.blocks():
        part = split.of(start, len(block))
        start += len(block)
        if (part == 0).any():
            yield block[part == 0]
