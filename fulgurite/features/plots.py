"""Plots of a table's categories: errors, and the use of codebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fulgurite.reporting.figures import (
    MARKERS,
    SERIES,
    grid,
    legend,
    legend_mark,
    name_rows,
    new_axes,
    percent_axis,
    styled,
)
from fulgurite.vqvae.health import Health

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.26  # inches


@styled
def plot_health(health: Sequence[Health]) -> Figure:
    """Share of codes used and perplexity as a share of the codes, a row for each level of each category."""
    figure, axes = new_axes(height=1.1 + _ROW * len(health))
    for row, one in enumerate(health):
        for value, place in ((one.used, 0), (one.perplexity / one.codes, 1)):
            axes.plot(value, row, marker=MARKERS[place], color=SERIES[place], markersize=6, linestyle="none")
    name_rows(axes, [f"{one.category}, level {one.level}" for one in health])
    axes.set_xlim(-0.02, 1.02)
    percent_axis(axes.xaxis)
    axes.set_xlabel("of the codes")
    grid(axes, "x")
    names = ("used", "perplexity")
    legend(axes, [legend_mark(MARKERS[place], SERIES[place], name) for place, name in enumerate(names)])
    return figure


@styled
def plot_errors(levels: Mapping[str, Sequence[float]]) -> Figure:
    """Relative error of each category after each level, on a logarithmic axis."""
    figure, axes = new_axes(height=1.1 + _ROW * len(levels))
    most = max(map(len, levels.values()))
    for row, errors in enumerate(levels.values()):
        for place, error in enumerate(errors):
            axes.plot(
                max(error, 1e-9),
                row,
                marker=MARKERS[place],
                color=SERIES[place],
                markersize=6,
                linestyle="none",
            )
    axes.set_xscale("log")
    name_rows(axes, list(levels))
    axes.set_xlabel("squared error as a share of the variance")
    grid(axes, "x")
    names = [f"after level {place}" for place in range(most)]
    legend(axes, [legend_mark(MARKERS[place], SERIES[place], name) for place, name in enumerate(names)])
    return figure
