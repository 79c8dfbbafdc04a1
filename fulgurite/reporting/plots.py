"""The plots of a report, each a function from the record to a figure, or ``None`` with nothing to draw.

record -> PLOTS[name] -> Figure, in the style of ``figures``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fulgurite.reporting.deciding import KINDS, block_ticks, deciding_gate, kind_of, result_layers
from fulgurite.reporting.figures import (
    INK,
    LOWEST,
    MARKERS,
    SERIES,
    byte_axis,
    draw_bound,
    grid,
    legend,
    legend_mark,
    log_axis,
    name_rows,
    new_axes,
    percent_axis,
    series_style,
    shortened,
    styled,
)
from fulgurite.reporting.units import format_bytes, format_percent, format_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

_ROW = 0.3  # inches of one line of text with its air
_DECADES = 1e-5  # smallest error drawn, as a share of the largest: fp16's would flatten all others


@styled
def plot_stage_bytes(record: Record) -> Figure | None:
    """One bar a stage below the reference's; a rejected stage's is hatched."""
    stages = [stage for stage in record["stages"] if stage["num_bytes"] is not None]
    if not stages:
        return None
    names = ["reference", *(stage["name"] for stage in stages)]
    sizes = [record["reference"]["num_bytes"], *(stage["num_bytes"] for stage in stages)]
    notes = ["fp32", *(format_ratio(stage["ratio"]) for stage in stages)]
    figure, axes = new_axes(height=0.7 + 1.3 * _ROW * len(names))
    for row, (size, note) in enumerate(zip(sizes, notes, strict=True)):
        accepted = row == 0 or stages[row - 1]["accepted"]
        colour = INK if row == 0 else SERIES[0]
        axes.barh(
            row,
            size,
            height=0.62,
            facecolor=colour if accepted else "none",
            edgecolor=colour,
            hatch=None if accepted else "////",
        )
        label = f"{format_bytes(size)}, {note}" + ("" if accepted else ", rejected")
        axes.annotate(label, (size, row), xytext=(5, 0), textcoords="offset points", va="center")
    name_rows(axes, names)
    axes.set_xlim(0, 1.35 * max(sizes))  # the labels stand behind the bars
    byte_axis(axes.xaxis)
    grid(axes, "x")
    return figure


@styled
def plot_part_bytes(record: Record) -> Figure | None:
    """What the artefact's bytes are spent on."""
    if record["artifact"] is None:
        return None
    parts = record["artifact"]["parts"]
    total = record["artifact"]["num_bytes"]
    figure, axes = new_axes(height=0.7 + 1.3 * _ROW * len(parts))
    for row, (colour, size) in enumerate(zip(SERIES * len(parts), parts.values(), strict=False)):
        axes.barh(row, size, height=0.62, color=colour)
        label = f"{format_bytes(size)}, {format_percent(size / max(total, 1))}"
        axes.annotate(label, (size, row), xytext=(5, 0), textcoords="offset points", va="center")
    name_rows(axes, list(parts))
    axes.set_xlim(0, 1.3 * max(*parts.values(), 1))
    byte_axis(axes.xaxis)
    grid(axes, "x")
    return figure


@styled
def plot_retention(record: Record) -> Figure | None:
    """What each stage kept, with intervals, measure by measure, and what its gate asked for.

    Of each stage the deciding try is shown: the accepted one, or the last. A bar to the left alone is a
    one-sided bound. The upright strokes are the thresholds that the bounds must reach.
    """
    groups = [(stage, gate) for stage in record["stages"] if (gate := deciding_gate(stage)) is not None]
    if not groups:
        return None
    rows = [row for stage, gate in groups for row in _rows(stage, gate)]
    figure, axes = new_axes(height=0.8 + _ROW * len(rows))
    for place, row in enumerate(rows):
        if row.head:
            transform = axes.get_yaxis_transform()
            axes.text(0, place, shortened(row.name), transform=transform, fontweight="bold", va="center")
        if row.point is not None:
            _across(axes, place, row)
        if row.needed is not None:
            axes.plot([row.needed] * 2, [place - 0.4, place + 0.4], color=SERIES[1], linewidth=2.5)
    name_rows(axes, ["" if row.head else row.name for row in rows])
    axes.axvline(1, color=INK, linewidth=0.8, alpha=0.5)
    percent_axis(axes.xaxis)
    axes.set_xlabel("retained (chance is 0 %)")
    grid(axes, "x")
    entries = [
        legend_mark("o", SERIES[0], "mean, lower bound"),
        legend_mark("s", SERIES[2], "one measure, interval"),
    ]
    legend(axes, [*entries, legend_mark("|", SERIES[1], "needed")])
    return figure


@styled
def plot_quality(record: Record) -> Figure | None:
    """Retention against size: the reference, every try, and other compressions where they were measured."""
    tries = [
        (stage, attempt, attempt["gate"]["cumulative"], attempt["gate"]["cumulative_low"])
        for stage in record["stages"]
        for attempt in stage["tries"]
        if attempt["gate"] is not None and None not in (attempt["gate"]["cumulative"], attempt["num_bytes"])
    ]
    if not tries:
        return None
    figure, axes = new_axes(height=3.6)
    path = [(record["reference"]["num_bytes"], 1.0)]
    path += [(attempt["num_bytes"], y) for _, attempt, y, _ in tries if attempt["gate"]["accepted"]]
    axes.plot(*zip(*path, strict=True), color=INK, alpha=0.35, linewidth=1, zorder=1)
    axes.plot(*path[0], marker="*", markersize=12, color=INK, linestyle="none")
    entries = [legend_mark("*", INK, "reference, fp32")]
    names = [stage["name"] for stage in record["stages"]]
    for stage, attempt, point, low in tries:
        colour, marker = series_style(names.index(stage["name"]))
        accepted = attempt["gate"]["accepted"]
        draw_bound(axes, attempt["num_bytes"], point, low, colour, marker, filled=accepted)
    for name in dict.fromkeys(stage["name"] for stage, *_ in tries):
        colour, marker = series_style(names.index(name))
        entries.append(legend_mark(marker, colour, name))
    entries.append(legend_mark("o", INK, "rejected try", filled=False))
    for peer in record.get("peers", []):
        if peer["retention"] is not None:
            draw_bound(axes, peer["num_bytes"], peer["retention"], peer["retention_low"], INK, "x", True)
            axes.annotate(
                shortened(peer["name"]),
                (peer["num_bytes"], max(peer["retention"], LOWEST)),
                xytext=(6, -3),
                textcoords="offset points",
            )
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    byte_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    axes.set_xlabel("bytes")
    axes.set_ylabel("retained")
    grid(axes, "both")
    legend(axes, entries)
    return figure


@styled
def plot_layer_error(record: Record) -> Figure | None:
    """Error of each weight in the network's order; kinds of weights by colour and marker."""
    layers = [layer for layer in result_layers(record) if layer["nmse"]]  # kept exactly: nothing to draw
    if not layers:
        return None
    largest = max(layer["nmse"] for layer in layers)
    figure, axes = new_axes(height=3.2)
    size = 6 if len(layers) <= 100 else 3.5
    entries = []
    for kind, colour, marker in zip(KINDS, SERIES, MARKERS, strict=False):
        places = [place for place, layer in enumerate(layers) if kind_of(layer["weight"]) == kind]
        if places:
            errors = [max(layers[place]["nmse"], largest * _DECADES) for place in places]
            axes.plot(places, errors, marker=marker, color=colour, markersize=size, linestyle="none")
            entries.append(legend_mark(marker, colour, kind))
    axes.set_yscale("log")
    log_axis(axes.yaxis)
    ticks = list(block_ticks([layer["weight"] for layer in layers]))
    skip = max(
        1, -(-len(ticks) // 16)
    )  # at most 16 numbers under the axis; a network without blocks has none
    axes.set_xticks([place for place, _ in ticks][::skip], [label for _, label in ticks][::skip])
    axes.set_xlabel("block of the network")
    axes.set_ylabel("NMSE")
    grid(axes, "both")
    legend(axes, entries)
    return figure


class _Row(NamedTuple):
    """One line of the retention plot."""

    name: str
    point: float | None = None
    low: float | None = None
    high: float | None = None
    needed: float | None = None
    head: bool = False
    mean: bool = False


def _rows(stage: Record, gate: Record) -> list[_Row]:
    """A stage's lines: its name, the two means that its gate decides on, then each measure."""
    rows = [_Row(stage["name"] + ("" if stage["accepted"] else " (rejected)"), head=True)]
    for name, key in (("this stage", ""), ("all stages", "cumulative")):
        point, low = gate[key or "retention"], gate[f"{key or 'retention'}_low"]
        rows.append(_Row(name, point, low, needed=gate[f"{key}_needed".lstrip("_")], mean=True))
    # with the reference at chance, a retention means nothing
    parts = (part for part in gate["per_measure"] if part["informative"])
    rows.extend(_Row(part["name"], part["retention"], part["low"], part["high"]) for part in parts)
    return rows


def _across(axes: Axes, place: int, row: _Row) -> None:
    """A point on its row with the interval across; a lower bound alone reaches to the left only."""
    assert row.point is not None
    colour, marker = (SERIES[0], "o") if row.mean else (SERIES[2], "s")
    point = max(row.point, LOWEST)
    low = point if row.low is None else max(row.low, LOWEST)
    high = point if row.high is None else max(row.high, LOWEST)
    ends = [low] if row.high is None else [low, high]
    axes.plot([low, max(high, point)], [place, place], color=colour, linewidth=1.5)
    axes.plot(ends, [place] * len(ends), marker="|", markersize=11, color=colour, linestyle="none")
    axes.plot(point, place, marker=marker, color=colour, markersize=5)


PLOTS: dict[str, Callable[[Record], Figure | None]] = {
    "stage_bytes": plot_stage_bytes,
    "part_bytes": plot_part_bytes,
    "retention": plot_retention,
    "quality": plot_quality,
    "layer_error": plot_layer_error,
}
"""The plots that any run may have, by the names of their files."""
