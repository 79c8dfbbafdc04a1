"""Features that belong together: given by name, by where they come from, or found by how they correlate.

sample -> 1 - |correlation| -> agglomerative clustering (complete linkage) -> small ones joined -> {name: places}

Reference: scikit-learn's AgglomerativeClustering; the number of clusters is the one with the best silhouette:
Rousseeuw, "Silhouettes: A graphical aid to the interpretation and validation of cluster analysis", 1987,
https://doi.org/10.1016/0377-0427(87)90125-7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

Categories = dict[str, list[int]]
Wanted = Mapping[str, Sequence[str] | str] | int | str

_MOST = 8  # clusters that are tried
_REST = "rest"


def find_categories(
    columns: Sequence[str], sample: NDArray[np.floating[Any]], wanted: Wanted = "auto", smallest: int = 4
) -> Categories:
    """Put every feature into one category.

    Args:
        columns: Names of the features.
        sample: Standardised, ``[rows, features]``.
        wanted: ``auto``, or a number of clusters; ``source``: by what stands before the last dot of a name; or names of
            categories with glob patterns over features, where the first that matches counts and what none matches is
            ``rest``.
        smallest: Clusters with fewer features join the nearest one.

    Raises:
        ValueError: If a pattern matches no feature, or the number is out of range.
    """
    if isinstance(wanted, Mapping):
        return _given(columns, wanted)
    if wanted == "source":
        return _by_source(columns)
    if isinstance(wanted, str) and wanted != "auto":
        raise ValueError(f"categories must be auto, source, a number or a mapping, got {wanted!r}")
    if isinstance(wanted, int) and not 1 <= wanted <= len(columns):
        raise ValueError(f"categories must be in [1, {len(columns)}], the number of features, got {wanted}")
    labels = _clusters(np.asarray(sample, np.float64), wanted, smallest)
    order = sorted(set(labels.tolist()), key=lambda label: -int((labels == label).sum()))
    return {
        f"cluster{number}": np.flatnonzero(labels == label).tolist() for number, label in enumerate(order)
    }


def _given(columns: Sequence[str], wanted: Mapping[str, Sequence[str] | str]) -> Categories:
    found: Categories = {name: [] for name in wanted}
    rest: list[int] = []
    for place, column in enumerate(columns):
        for name, patterns in wanted.items():
            if any(
                fnmatchcase(column, one) for one in ([patterns] if isinstance(patterns, str) else patterns)
            ):
                found[name].append(place)
                break
        else:
            rest.append(place)
    for name, places in found.items():
        if not places:
            raise ValueError(
                f"categories.{name}: {wanted[name]!r} matches no feature; there are {_some(columns)}"
            )
    return found | ({_REST: rest} if rest else {})


def _by_source(columns: Sequence[str]) -> Categories:
    found: Categories = {}
    for place, column in enumerate(columns):
        found.setdefault(column.rpartition(".")[0] or column, []).append(place)
    return found


def _some(columns: Sequence[str]) -> str:
    return ", ".join(columns[:4]) + (", ..." if len(columns) > 4 else "")


def _clusters(sample: NDArray[np.float64], wanted: int | str, smallest: int) -> NDArray[np.int64]:
    count = sample.shape[1]
    if count < 2 * smallest or wanted == 1:
        return np.zeros(count, np.int64)
    distance = 1 - np.abs(sample.T @ sample / len(sample)).clip(0, 1)
    np.fill_diagonal(distance, 0)
    if isinstance(wanted, int):
        return _joined(_fit(distance, wanted), distance, min(smallest, count // wanted))
    from sklearn.metrics import silhouette_score

    found = [
        _joined(_fit(distance, number), distance, smallest) for number in range(2, min(_MOST, count - 1) + 1)
    ]
    found = [labels for labels in found if len(set(labels.tolist())) > 1]
    if not found:
        return np.zeros(count, np.int64)
    scores = [silhouette_score(distance, labels, metric="precomputed") for labels in found]
    return found[int(np.argmax(scores))]


def _fit(distance: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(number, metric="precomputed", linkage="complete")
    return np.asarray(model.fit_predict(distance), np.int64)


def _joined(labels: NDArray[np.int64], distance: NDArray[np.float64], smallest: int) -> NDArray[np.int64]:
    """Clusters below a size in the one that is nearest on average, the smallest first."""
    labels = labels.copy()
    while True:
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) == 1 or sizes.min() >= smallest:
            return labels
        small = names[sizes.argmin()]
        others = [name for name in names if name != small]
        means = [distance[np.ix_(labels == small, labels == other)].mean() for other in others]
        labels[labels == small] = others[int(np.argmin(means))]
