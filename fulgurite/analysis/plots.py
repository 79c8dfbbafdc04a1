"""Plots of an analysis, in the report's style.

results -> figure, one row a layer or a variant
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fulgurite.analysis.activations import LayerInputs
from fulgurite.analysis.sensitivity import Sensitivities
from fulgurite.analysis.study import Study
from fulgurite.analysis.subspaces import WeightSubspaces
from fulgurite.reporting.figures import (
    INK,
    LOWEST,
    MARKERS,
    SERIES,
    grid,
    legend,
    legend_mark,
    name_rows,
    new_axes,
    percent_axis,
    series_style,
    styled,
)
from fulgurite.reporting.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.24  # inches
_MOST = 60  # rows that a figure holds


@styled
def plot_subspaces(found: tuple[Sequence[WeightSubspaces], Sequence[LayerInputs]]) -> Figure | None:
    """Overlap of weight and activation subspaces, and CKA, a row for each weight."""
    weights, inputs = found
    if not weights:
        return None
    shown = list(weights)[:_MOST]
    by_name = {one.name: one for one in inputs}
    figure, axes = new_axes(height=1.1 + _ROW * len(shown))
    for row, weight in enumerate(shown):
        seen = by_name.get(weight.name)
        values = [weight.left.overlap, weight.right.overlap]
        values += [] if seen is None else [seen.subspaces.overlap, seen.cka]
        for value, colour, marker in zip(values, SERIES, MARKERS, strict=False):
            if math.isfinite(value):
                axes.plot(value, row, marker=marker, color=colour, markersize=6, linestyle="none")
        axes.plot(weight.right.chance, row, marker="|", color=INK, markersize=8, linestyle="none", alpha=0.5)
    name_rows(axes, _row_names([weight.name for weight in shown]))
    axes.set_xlim(-0.02, 1.02)
    percent_axis(axes.xaxis)
    axes.set_xlabel("overlap with the reference's subspace; CKA")
    grid(axes, "x")
    names = ["outputs' space", "inputs' space", "activations' space", "CKA of activations"]
    entries = [
        legend_mark(marker, colour, name)
        for name, colour, marker in zip(names, SERIES, MARKERS, strict=False)
    ]
    legend(axes, [*entries, legend_mark("|", INK, "chance (inputs)")])
    return figure


@styled
def plot_sensitivity(found: Sensitivities) -> Figure | None:
    """What each layer costs alone, and what it would mend, with intervals; the costliest first."""
    layers = sorted(found.layers, key=lambda one: -one.alone.point)[:_MOST]
    if not layers:
        return None
    figure, axes = new_axes(height=1.1 + 1.2 * _ROW * len(layers))
    for row, layer in enumerate(layers):
        for shift, interval, place in ((-0.15, layer.alone, 0), (0.15, layer.mended, 1)):
            colour, marker = series_style(place)
            _across(axes, row + shift, interval.low, interval.point, interval.high, colour, marker)
    name_rows(axes, _row_names([layer.name for layer in layers]))
    axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel(f"{found.reference.name.replace('_', ' ')}, {found.reference.unit or 'score'}")
    grid(axes, "x")
    legend(
        axes,
        [
            legend_mark(MARKERS[0], SERIES[0], "worse: alone compressed"),
            legend_mark(MARKERS[1], SERIES[1], "better: alone exact"),
        ],
    )
    return figure


@styled
def plot_study(study: Study) -> Figure | None:
    """What each variant retains of each measure, with intervals, and its bytes; a row for each variant."""
    shown = list(study.outcomes)[:_MOST]
    kept = [one.retention() for one in shown]
    measures = list(dict.fromkeys(name for found in kept for name in found))
    if not measures:
        return None
    figure, axes = new_axes(height=1.1 + 1.4 * _ROW * len(shown))
    for row, found in enumerate(kept):
        for place, name in enumerate(measures):
            colour, marker = series_style(place)
            low, point, high = (max(LOWEST, getattr(found[name], key)) for key in ("low", "point", "high"))
            _across(axes, row + 0.2 * (place - (len(measures) - 1) / 2), low, point, high, colour, marker)
    name_rows(axes, [one.variant.label for one in shown])
    right = axes.get_yaxis_transform()  # across in shares of the width, down in rows
    for row, one in enumerate(shown):
        axes.text(1.01, row, format_bytes(one.num_bytes), transform=right, va="center")
    percent_axis(axes.xaxis)
    axes.set_xlabel("retained (chance is 0 %)")
    grid(axes, "x")
    entries = []
    for place, name in enumerate(measures):
        colour, marker = series_style(place)
        entries.append(legend_mark(marker, colour, name.replace("_", " ")))
    legend(axes, entries)
    return figure


def _row_names(names: Sequence[str]) -> list[str]:
    """Names of weights without what all with a dot begin with, so that their numbers can be read."""
    dotted = [name.removesuffix(".weight").split(".") for name in names]
    long = [parts for parts in dotted if len(parts) > 1]
    while len(long) > 1 and all(len(parts) > 1 for parts in long) and len({parts[0] for parts in long}) == 1:
        for parts in long:
            del parts[0]
    return [".".join(parts) for parts in dotted]


def _across(axes: Axes, row: float, low: float, point: float, high: float, colour: str, marker: str) -> None:
    axes.plot([low, high], [row, row], color=colour, linewidth=1.4)
    axes.plot(point, row, marker=marker, color=colour, markersize=5, linestyle="none")
