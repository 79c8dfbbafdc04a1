"""What rate-distortion theory says of features: the error that bits allow where rows are Gaussian.

spectrum of a category -> reverse water-filling -> relative error at so many bits, bits for an error
spectra of all categories, bits of a row -> uniform | least worst error | least mean error

An estimate, not a limit, for rows that are not Gaussian: of one covariance Gaussian rows are the hardest to code.

Reference: Cover and Thomas, Elements of Information Theory, 2nd edition, theorem 10.3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

_FLOOR = 1e-12  # of the largest
_STEPS = 60  # of a bisection: halves of a logarithm, beyond what floats tell apart

Spectrum = Sequence[float] | NDArray[np.float64]
Shares = dict[str, float]


def gaussian_error(spectrum: Spectrum, bits: float) -> float:
    """Least relative error of a row in so many bits.

    Args:
        spectrum: Eigenvalues of the covariance.
        bits: Of a row.

    Example:
        >>> gaussian_error([1.0, 1.0], 2.0)  # a bit for each: a quarter of its variance is left
        0.25
    """
    values = _sorted(spectrum)
    counts = np.arange(1, len(values) + 1)
    # the water where the first k stick out: each of these keeps as much error
    level = 2.0 ** ((np.cumsum(np.log2(values)) - 2 * bits) / counts)
    reached = int(np.flatnonzero(values >= level).max(initial=0))
    error = (reached + 1) * level[reached] + values[reached + 1 :].sum()
    return float(min(1.0, error / values.sum()))


def gaussian_bits(spectrum: Spectrum, error: float) -> float:
    """Least bits of a row whose relative error is ``error``; inverts ``gaussian_error``.

    Raises:
        ValueError: If ``error`` is not above 0.
    """
    if error <= 0:
        raise ValueError(f"error must be above 0, got {error}")
    values = _sorted(spectrum)
    wanted = error * values.sum()
    if wanted >= values.sum():
        return 0.0
    # the water where the last stick under it: sum of min(value, level) is what is wanted
    tails = np.append(np.cumsum(values[::-1])[::-1][1:], 0.0)
    counts = np.arange(1, len(values) + 1)
    levels = (wanted - tails) / counts
    reached = int(np.flatnonzero((levels > 0) & (levels <= values)).max())
    return float(np.log2(values[: reached + 1] / levels[reached]).sum() / 2)


def gaussian_curves(spectra: Mapping[str, Spectrum], bits: float) -> dict[str, Callable[[int], float]]:
    """``gaussian_error`` of each category by its number of codes of ``bits`` bits, each found once."""

    @cache
    def error(name: str, count: int) -> float:
        return gaussian_error(spectra[name], count * bits)

    return {name: partial(error, name) for name in spectra}


def uniform_errors(spectra: Mapping[str, Spectrum], bits_per_feature: float) -> Shares:
    """Relative error of each category where all have as many bits a feature."""
    return {
        name: gaussian_error(spectrum, bits_per_feature * len(spectrum)) for name, spectrum in spectra.items()
    }


def least_worst_error(spectra: Mapping[str, Spectrum], bits: float) -> float:
    """Relative error that all categories can have at once, in so many bits of a row."""
    low, high = 1e-12, 1.0
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        spent = sum(gaussian_bits(spectrum, middle) for spectrum in spectra.values())
        low, high = (low, middle) if spent <= bits else (middle, high)
    return high


def least_mean_errors(spectra: Mapping[str, Spectrum], bits: float) -> Shares:
    """Relative errors of the categories where the sum of squared errors is least, in so many bits of a row."""
    joined = _sorted(np.concatenate([np.asarray(spectrum) for spectrum in spectra.values()]))
    counts = np.arange(1, len(joined) + 1)
    levels = 2.0 ** ((np.cumsum(np.log2(joined)) - 2 * bits) / counts)
    level = levels[int(np.flatnonzero(joined >= levels).max(initial=0))]
    return {
        name: float(np.minimum(_sorted(spectrum), level).sum() / _sorted(spectrum).sum())
        for name, spectrum in spectra.items()
    }


def _sorted(spectrum: Spectrum) -> NDArray[np.float64]:
    """The largest first; what is nothing is a little, so that it has a logarithm."""
    values = np.sort(np.asarray(spectrum, np.float64))[::-1]
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a spectrum must be finite numbers, got {values[:4].tolist()}")
    floored: NDArray[np.float64] = np.maximum(values, max(_FLOOR * values[0], 1e-300))
    return floored
