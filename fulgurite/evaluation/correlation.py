"""Correlation of a network's values with known scores, over many resamples of the items at once.

    values [n], targets [n], counts [r, n] (how often each resample drew each item) -> correlation [r]

A correlation is no mean over items, so its resamples cannot be had by adding items up: means, spreads and
ranks are those of the drawn items.
Reference: Spearman, "The Proof and Measurement of Association between Two Things", American Journal of
Psychology 15, 1904; equal values share the mean of their ranks, as is usual.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FLAT = 1e-12  # a spread of this share of the values themselves is rounding


def pearson(values: Floats, targets: Floats, counts: Floats) -> Floats:
    """Pearson correlation of each resample.

    Args:
        values: ``[n]``, or ``[r, n]`` where they differ between resamples.
        targets: ``[n]`` or ``[r, n]``.
        counts: Draws of each item, ``[r, n]``.

    Returns:
        ``[r]`` in [-1, 1]: 0 where values or targets are all equal and so tell nothing, NaN where a value is
        not finite.

    Example:
        >>> line = np.arange(4.0)
        >>> pearson(line, 2 * line + 1, np.ones((1, 4))).round(6)
        array([1.])
    """
    if not np.isfinite(values).all():
        return np.full(len(counts), np.nan)
    one, other = _centred(values, counts), _centred(targets, counts)
    spread = np.sqrt((counts * one**2).sum(1) * (counts * other**2).sum(1))
    shared = (counts * one * other).sum(1)
    result: Floats = np.divide(shared, spread, out=np.zeros(len(counts)), where=spread > 0)
    return result.clip(-1, 1)


def spearman(values: Floats, targets: Floats, counts: Floats) -> Floats:
    """Spearman's rank correlation of each resample; see ``pearson``.

    Example:
        >>> spearman(np.array([1.0, 10, 100]), np.array([5.0, 6, 9]), np.ones((1, 3)))
        array([1.])
    """
    if not np.isfinite(values).all():
        return np.full(len(counts), np.nan)
    return pearson(midranks(values, counts), midranks(targets, counts), counts)


def midranks(values: Floats, counts: Floats) -> Floats:
    """Rank of each item among the drawn ones, from 1; equal values share the mean of their ranks.

    Args:
        values: ``[n]``.
        counts: Draws of each item, ``[r, n]``.

    Returns:
        ``[r, n]``; what an item that was not drawn gets means nothing.

    Example:
        >>> midranks(np.array([3.0, 1, 3]), np.array([[1.0, 1, 1], [2, 0, 1]]))
        array([[2.5, 1. , 2.5],
               [2. , 0.5, 2. ]])
    """
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    first = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])  # of each run of equal values
    held = np.add.reduceat(counts[:, order], first, axis=1)  # draws of each distinct value, [r, distinct]
    ranks = held.cumsum(1) - (held - 1) / 2
    place = np.empty(len(values), np.intp)
    place[order] = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(values)]))
    return ranks[:, place]


def _centred(values: Floats, counts: Floats) -> Floats:
    """Values less the mean of the drawn ones, ``[r, n]``; exactly 0 where all are equal."""
    size = counts.sum(1, keepdims=True)
    mean = (counts * values).sum(1, keepdims=True) / size
    centred = values - mean
    spread = (counts * centred**2).sum(1, keepdims=True)
    flat = spread <= _FLAT**2 * (counts * np.square(values)).sum(1, keepdims=True)
    return np.where(flat, 0.0, centred)
