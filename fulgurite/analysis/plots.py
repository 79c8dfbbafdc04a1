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
    byte_axis,
    grid,
    legend,
    legend_mark,
    name_rows,
    new_axes,
    percent_axis,
    series_style,
    shortened,
    styled,
)

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
    name_rows(axes, [weight.name.removesuffix(".weight") for weight in shown])
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
    name_rows(axes, [layer.name for layer in layers])
    axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel(f"{found.reference.name.replace('_', ' ')}, {found.reference.unit or 'score'}")
    grid(axes, "x")
    legend(
        axes,
        [
            legend_mark(MARKERS[0], SERIES[0], "worse, this layer alone compressed"),
            legend_mark(MARKERS[1], SERIES[1], "better, this layer alone exact"),
        ],
    )
    return figure


@styled
def plot_study(study: Study) -> Figure | None:
    """What each variant retains over its bytes, the mean over measures, with the widest interval."""
    if not study.outcomes:
        return None
    figure, axes = new_axes(height=3.8)
    entries = []
    for place, one in enumerate(study.outcomes):
        found = list(one.retention(resamples=1000).values())
        if not found:
            continue
        point, low, high = (
            max(LOWEST, sum(getattr(interval, key) for interval in found) / len(found))
            for key in ("point", "low", "high")
        )
        colour, marker = series_style(place)
        axes.plot([one.num_bytes] * 2, [low, high], color=colour, linewidth=1.3)
        axes.plot(one.num_bytes, point, marker=marker, color=colour, markersize=7, linestyle="none")
        entries.append(legend_mark(marker, colour, shortened(one.variant.label)))
    if not entries:
        return None
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    byte_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    axes.set_xlabel("bytes")
    axes.set_ylabel("retained")
    grid(axes, "both")
    legend(axes, entries)
    return figure


def _across(axes: Axes, row: float, low: float, point: float, high: float, colour: str, marker: str) -> None:
    axes.plot([low, high], [row, row], color=colour, linewidth=1.4)
    axes.plot(point, row, marker=marker, color=colour, markersize=5, linestyle="none")
