"""The plots of a study, in the style of a run's report.

settings, trials -> bytes against quality with the front | importance of keys | history
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fulgurite.reporting.figures import (
    INK,
    SERIES,
    byte_axis,
    grid,
    legend,
    legend_mark,
    name_rows,
    new_axes,
    percent_axis,
    series_style,
    styled,
)
from fulgurite.search.settings import Objective, SearchSettings
from fulgurite.search.view import TrialView, front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_trade(settings: SearchSettings, trials: Sequence[TrialView]) -> Figure | None:
    """Bytes against quality of every trial that measured both, with the front of the two."""
    others = [o for o in settings.objectives if o.metric != "bytes"]
    quality = next((o for o in others if o.metric not in ("ratio", "bits_per_weight")), None)
    return _trade((quality or Objective("retention", "maximize"), trials))


def plot_importance(importance: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """A bar for each key and objective."""
    return _importance(importance)


def plot_history(settings: SearchSettings, trials: Sequence[TrialView]) -> Figure | None:
    """Each objective trial by trial, with the best so far."""
    return _history((settings, trials))


@styled
def _trade(given: Any) -> Figure | None:
    quality, trials = given
    bytes_of = Objective("bytes", "minimize")
    points = [
        TrialView(t.number, t.state, t.params, (t.metrics["bytes"], t.metrics[quality.metric]))
        for t in trials
        if t.metrics and t.state in ("done", "rejected") and {"bytes", quality.metric} <= t.metrics.keys()
    ]
    if not points:
        return None
    figure, axes = new_axes(height=3.9)
    front = front_of(points, [bytes_of, quality])
    if front:
        axes.plot(
            *zip(*(trial.values for trial in front), strict=True), color=SERIES[1], linewidth=1.4, zorder=1
        )
    for trial in points:
        done = trial.state == "done"
        on_front = trial.number in {one.number for one in front}
        colour = SERIES[1] if on_front else SERIES[0]
        axes.plot(
            *trial.values,
            marker="o",
            linestyle="none",
            color=colour,
            markersize=6.5,
            markerfacecolor=colour if done else "none",
            markeredgewidth=1.3,
        )
        axes.annotate(
            str(trial.number),
            (trial.values[0], trial.values[1]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
        )
    entries = [legend_mark("o", SERIES[1], "on the front"), legend_mark("o", SERIES[0], "other trial")]
    if any(trial.state == "rejected" for trial in points):
        entries.append(legend_mark("o", SERIES[0], "rejected by its gate", filled=False))
    legend(axes, entries)
    sizes = [trial.values[0] for trial in points]
    if max(sizes) > 3 * min(sizes) > 0:
        axes.set_xscale("log")
    _value_axis(axes, quality.metric)
    byte_axis(axes.xaxis)
    axes.set_xlabel("bytes of the artefact")
    grid(axes, "both")
    return figure


@styled
def _importance(importance: Any) -> Figure | None:
    if not importance:
        return None
    from fulgurite.search.results import short_names

    keys = list(next(iter(importance.values())))
    names = short_names(keys)
    figure, axes = new_axes(height=0.9 + 0.32 * len(keys) * max(1, len(importance) - 0.4))
    thick = 0.7 / len(importance)
    for place, (metric, shares) in enumerate(importance.items()):
        rows = [row + (place - (len(importance) - 1) / 2) * thick for row in range(len(keys))]
        axes.barh(
            rows, [shares.get(key, 0.0) for key in keys], height=thick, color=SERIES[place], label=metric
        )
    name_rows(axes, [names[key] for key in keys])
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel("share of the variation over the trials")
    legend(axes, [legend_mark("s", SERIES[place], metric) for place, metric in enumerate(importance)])
    grid(axes, "x")
    return figure


@styled
def _history(given: Any) -> Figure | None:
    settings, trials = given
    valued = [trial for trial in trials if trial.values]
    if not valued:
        return None
    from matplotlib.ticker import MaxNLocator

    count = len(settings.objectives)
    figure, first = new_axes(height=1.0 + 1.7 * count)
    first.remove()
    for place, objective in enumerate(settings.objectives):
        axes = figure.add_subplot(count, 1, place + 1)
        colour, marker = series_style(place)
        best: list[tuple[int, float]] = []
        for trial in valued:
            value, done = trial.values[place], trial.state == "done"
            face = colour if done else "none"
            axes.plot(
                trial.number, value, marker=marker, color=colour, markerfacecolor=face, linestyle="none"
            )
            if done and (not best or objective.better(value, best[-1][1])):
                best.append((trial.number, value))
        if best:
            best.append((valued[-1].number, best[-1][1]))
            axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=1.1)
        _value_axis(axes, objective.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid(axes, "both")
    axes.set_xlabel("trial; the line is the best so far, hollow marks were rejected")
    return figure


def _value_axis(axes: Axes, metric: str) -> None:
    axes.set_ylabel(metric)
    if metric == "bytes":
        byte_axis(axes.yaxis)
    elif metric.startswith("retention"):
        percent_axis(axes.yaxis)
