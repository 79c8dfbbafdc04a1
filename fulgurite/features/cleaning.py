"""Which features are of use, and what their values are limited to.

blocks -> sums of finite values, least and largest, a sample of rows -> missing | constant | duplicate | collinear
       -> limits from the sample (outliers are moved to them) -> mean and scale -> Cleaning
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fulgurite.features.tables import Block

Reason = str
_CLOSE = 1e-7  # of a feature's size: variation below it is float32's rounding


@dataclass(frozen=True)
class CleaningSettings:
    """What is taken out.

    Args:
        max_missing: Share of NaN and infinite values up to which a feature stays; they become its mean.
        max_correlation: Absolute correlation with an earlier feature above which a feature goes.
        outlier_deviations: Distance from the median, in standard deviations, at which values are cut off.
        sample_rows: Rows on which correlations, limits and scales are measured.

    Raises:
        ValueError: If a number is out of range.
    """

    max_missing: float = 0.2
    max_correlation: float = 0.999
    outlier_deviations: float = 10.0
    sample_rows: int = 20_000

    def __post_init__(self) -> None:
        for name in ("max_missing", "max_correlation"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if self.outlier_deviations <= 0:
            raise ValueError(f"outlier_deviations must be above 0, got {self.outlier_deviations}")
        if self.sample_rows < 2:
            raise ValueError(f"sample_rows must be at least 2, got {self.sample_rows}")


@dataclass(frozen=True)
class Cleaning:
    """What was found.

    Args:
        kept: Places of the features that stay.
        dropped: Reason by name, in the order of the columns.
        low, high: Limits of the features that stay, ``[kept]``.
        mean, scale: Of these after limiting, ``[kept]``.
        missing: Values of these that were missing.
        outliers: Values of these in the sample that lie beyond the limits.
        rows: Rows that were looked at.
        sample: These features of the sample, limited and standardised, ``[sample, kept]``.
    """

    kept: NDArray[np.int64]
    dropped: dict[str, Reason]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    missing: int
    outliers: int
    rows: int
    sample: Block


def clean(
    columns: Sequence[str],
    blocks: Iterable[Block],
    settings: CleaningSettings = CleaningSettings(),
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Cleaning:
    """Look at all blocks once.

    Args:
        columns: Names.
        blocks: Train rows, ``[rows, columns]`` each.
        settings: What goes.
        seed: Of the sample.
        check: Called after each block.

    Raises:
        ValueError: If there are fewer than two rows, or no feature is left; says why they went.
    """
    width = len(columns)
    finite, least, most = np.zeros(width, np.int64), np.full(width, np.inf), np.full(width, -np.inf)
    sampler = _Sampler(settings.sample_rows, seed)
    rows = 0
    for block in blocks:
        known = np.isfinite(block)
        finite += known.sum(0)
        least = np.minimum(least, np.where(known, block, np.inf).min(0, initial=np.inf))
        most = np.maximum(most, np.where(known, block, -np.inf).max(0, initial=-np.inf))
        sampler.add(block)
        rows += len(block)
        check()
    if rows < 2:
        raise ValueError(f"expected at least 2 rows to learn from, found {rows}")
    sample = sampler.rows().astype(np.float64)
    sample[~np.isfinite(sample)] = np.nan
    dropped: dict[int, Reason] = {}
    for place in range(width):
        share = 1 - finite[place] / rows
        if share > settings.max_missing:
            dropped[place] = f"missing: {100 * share:.1f} % of its values"
        elif most[place] - least[place] <= _CLOSE * max(abs(most[place]), abs(least[place]), 1e-30):
            dropped[place] = f"constant: {least[place]:g}"
    kept = np.array([place for place in range(width) if place not in dropped], np.int64)
    low, high, mean, scale, sample, outliers = _standardise(sample[:, kept], settings.outlier_deviations)
    flat = scale <= 0
    dropped |= {int(place): "constant in all but a few rows" for place in kept[flat]}
    kept, low, high, mean, scale, sample = (
        kept[~flat], low[~flat], high[~flat], mean[~flat], scale[~flat], sample[:, ~flat],
    )  # fmt: skip
    alike = _alike(sample, [columns[place] for place in kept], settings.max_correlation)
    dropped |= {int(kept[place]): reason for place, reason in alike.items()}
    stay = np.array([place not in alike for place in range(len(kept))], bool)
    if not stay.any():
        raise ValueError(f"no usable feature is left of {width}: {_summary(dropped)}")
    kept = kept[stay]
    return Cleaning(
        kept=kept,
        dropped={columns[place]: dropped[place] for place in sorted(dropped)},
        low=low[stay],
        high=high[stay],
        mean=mean[stay],
        scale=scale[stay],
        missing=int((rows - finite[kept]).sum()),
        outliers=int(outliers[~flat][stay].sum()),
        rows=rows,
        sample=sample[:, stay].astype(np.float32),
    )


def _summary(dropped: dict[int, Reason]) -> str:
    kinds: dict[str, int] = {}
    for reason in dropped.values():
        kind = reason.partition(":")[0].partition(" ")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "there was none"


def _standardise(values: NDArray[np.float64], deviations: float) -> tuple[NDArray[np.float64], ...]:
    """Limits, mean, scale, the values limited and standardised, and how many lay beyond."""
    if not values.shape[1]:
        empty = np.zeros(0)
        return empty, empty, empty, empty, values, empty
    median = np.nanmedian(values, axis=0)
    quartiles = np.nanpercentile(values, [25, 75], axis=0)
    # 1.349: quartiles of a Gaussian are so many deviations apart; one wild value does not move them
    deviation = (quartiles[1] - quartiles[0]) / 1.349
    # a feature that is zero in most rows has no quartiles to speak of, but its deviation
    deviation = np.where(deviation > 0, deviation, np.nanstd(values, axis=0))
    tails = np.nanpercentile(values, [0.1, 99.9], axis=0)
    low = np.minimum(median - deviations * deviation, tails[0])
    high = np.maximum(median + deviations * deviation, tails[1])
    beyond = ((values < low) | (values > high)).sum(0)
    limited = np.clip(values, low, high)
    mean = np.nanmean(limited, axis=0)
    limited = np.where(np.isnan(limited), mean, limited)
    scale = limited.std(axis=0)
    return low, high, mean, scale, (limited - mean) / np.where(scale > 0, scale, 1), beyond


def _alike(sample: NDArray[np.float64], names: Sequence[str], most: float) -> dict[int, Reason]:
    """Features that an earlier one says already."""
    if sample.shape[1] < 2:
        return {}
    correlation = sample.T @ sample / len(sample)
    found: dict[int, Reason] = {}
    for place in range(1, len(names)):
        before = np.abs(correlation[place, :place])
        before[[other for other in found if other < place]] = 0
        nearest = int(before.argmax())
        if np.array_equal(sample[:, place], sample[:, nearest]) and before[nearest] > 0:
            found[place] = f"duplicate of {names[nearest]}"
        elif before[nearest] > most:
            found[place] = f"collinear with {names[nearest]}: correlation {correlation[place, nearest]:.5f}"
    return found


class _Sampler:
    """An even sample of the rows: those with the smallest random keys; the order of the blocks does not matter."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._random = np.random.default_rng([seed, 1])
        self._keys: NDArray[np.float64] = np.zeros(0)
        self._parts: list[Block] = []

    def add(self, block: Block) -> None:
        self._keys = np.concatenate([self._keys, self._random.random(len(block))])
        self._parts.append(block)
        if len(self._keys) > 2 * self._count:
            self._shrink()

    def _shrink(self) -> None:
        rows = np.concatenate(self._parts)
        taken = np.sort(np.argsort(self._keys, kind="stable")[: self._count])
        self._keys, self._parts = self._keys[taken], [rows[taken]]

    def rows(self) -> Block:
        self._shrink()
        return self._parts[0]
