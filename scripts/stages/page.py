"""The page: a table, a sentence a ratio and one plot of all networks, all of it from the rows.

rows by network and ratio -> tables, winners in words, plot -> docs/stages.md, docs/stages_ratio.png
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stages.results import Row, apart
from stages.techniques import RATIOS, TECHNIQUES, Network, Technique

from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.statistics import Interval
from fulgurite.reporting.figures import INK, LOWEST, grid, legend_mark, percent_axis, series_style, styled
from fulgurite.reporting.table import markdown_rows
from fulgurite.reporting.units import format_list, format_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[int, Sequence[Row]]
DEFAULT = "ecq"
"""What the presets in ``configs/cascade`` code with."""

_PANEL = (4.2, 3.4)  # inches
_SHIFT = 0.035  # between two techniques at one ratio, in doublings


def section(network: Network, rows: Rows, missing: Mapping[str, str]) -> str:
    """One network: what it is, its table, and who is best."""
    parts = [f"## {network.title}", network.what, table(network, rows)]
    parts += [f"No further row of *{name}*: {reason}." for name, reason in missing.items()]
    known = {row.name for each in rows.values() for row in each}
    if absent := [f"*{one.title}*" for one in TECHNIQUES if one.title not in known]:
        parts.append(f"Not run here, for the time that it takes: {format_list(absent)}.")
    parts.append("\n".join(f"- {sentence}" for sentence in [*sentences(rows), *factored(rows)]))
    return "\n\n".join(parts)


def table(network: Network, rows: Rows) -> str:
    """A row for each ratio and technique, the best first."""
    first = next(row for each in rows.values() for row in each)
    shown = [name for name in network.shown if name in first.reference]
    header = ["ratio", "technique", "bytes", *(name.replace("_", " ") for name in shown)]
    header += ["kept", f"over {DEFAULT}, points", "s"]
    lines = [
        ["1x", "reference", "", *(score(first.reference, name) for name in shown), "100.0 %", "", ""],
        *(_line(ratio, row, each, shown) for ratio, each in rows.items() for row in each),
    ]
    return markdown_rows(header, lines, [False, False, *[True] * (len(header) - 2)])


def _line(ratio: int, row: Row, others: Sequence[Row], shown: Sequence[str]) -> list[str]:
    plain = next((other for other in others if other.name == DEFAULT), None)
    more = "" if plain is None or plain is row else points(row.over(plain))
    cells = [f"{ratio}x", row.name, f"{row.num_bytes:,}", *(score(row.scores, name) for name in shown)]
    return [*cells, percent(row.kept), more, f"{row.seconds:.0f}"]


def score(measures: Mapping[str, Measure], name: str) -> str:
    """A measure in its unit."""
    return format_score(measures[name].value, measures[name].unit)


def percent(interval: Interval) -> str:
    """A share with its interval."""
    if not math.isfinite(interval.point):
        return "no number"
    point, low, high = (100 * value for value in (interval.point, interval.low, interval.high))
    return f"{point:.1f} % [{low:.1f}, {high:.1f}]"


def points(interval: Interval) -> str:
    """A difference of two shares with its interval."""
    point, low, high = (100 * value for value in (interval.point, interval.low, interval.high))
    return f"{point:+.1f} [{low:+.1f}, {high:+.1f}]"


def sentences(rows: Rows) -> list[str]:
    """Who is best at each ratio, and whether that is sure."""
    return [_sentence(ratio, each) for ratio, each in rows.items() if each]


def _sentence(ratio: int, rows: Sequence[Row]) -> str:
    best = rows[0]
    text = f"At {ratio}x *{best.name}* keeps most, {percent(best.kept)}"
    if not best.kept.high > 0:
        text = f"At {ratio}x nothing is better than chance; *{best.name}* comes nearest, {percent(best.kept)}"
    if len(rows) == 1:
        return f"{text}; it is alone there."
    second = rows[1]
    over = best.over(second)
    if apart(over):
        return f"{text}: {points(over)} points over *{second.name}*, so the two are apart."
    beaten = next((row for row in rows[2:] if apart(best.over(row))), None)
    behind = f"; the next that is: *{beaten.name}*, {points(best.over(beaten))}" if beaten else ""
    return f"{text}; not apart from *{second.name}*, {points(over)} points{behind}."


def factored(rows: Rows) -> list[str]:
    """How many weights have factors of low rank, where a technique may leave them out."""
    names = dict.fromkeys(row.name for each in rows.values() for row in each if row.factored)
    said = []
    for name in names:
        found = [
            (ratio, *row.factored)
            for ratio, each in rows.items()
            for row in each
            if row.name == name and row.factored is not None
        ]
        if any(count < of for _, count, of in found):  # else it is what its name says
            shares = format_list([f"{count} of {of} at {ratio}x" for ratio, count, of in found])
            said.append(
                f"Weights of *{name}* with factors of low rank: {shares}; the others are coded whole."
            )
    return said


def default(found: Mapping[str, Rows]) -> str:
    """What follows for the presets: who is best, or as good as the best, in most places.

    Args:
        found: Rows by the network's title.
    """
    # what is at chance is of no use to anybody, whoever comes nearest
    places = {
        f"{title} at {ratio}x": each
        for title, rows in found.items()
        for ratio, each in rows.items()
        if each and each[0].kept.low > 0
    }
    good: dict[str, int] = {}
    ties, losses = [], []
    for place, each in places.items():
        for row in each:
            good[row.name] = good.get(row.name, 0) + (row is each[0] or not apart(each[0].over(row)))
        plain = next((row for row in each if row.name == DEFAULT), None)
        if plain is None or plain is each[0]:
            continue
        over = each[0].over(plain)
        said = f"{place}, *{each[0].name}*, {points(over)}"
        (losses if apart(over) else ties).append(said)
    led = sum(each[0].name == DEFAULT for each in places.values())
    text = (
        f"The presets in `configs/cascade` code with *{DEFAULT}* under an allocation. Of the {len(places)} places "
        f"below where anything is above chance it keeps most in {led}"
    )
    text += f", is not apart from the best in {len(ties)} ({'; '.join(ties)})" if ties else ""
    text += f" and is behind in {len(losses)}" + (f" ({'; '.join(losses)})." if losses else ".")
    if not good:
        return text
    others = {name: count for name, count in good.items() if name != DEFAULT}
    next_best = max(others, key=lambda name: others[name]) if others else None
    if next_best is None or good.get(DEFAULT, 0) >= others[next_best]:
        behind = f"; the next, *{next_best}*, in {others[next_best]}" if next_best else ""
        return f"{text} Best or as good as the best: *{DEFAULT}* in {good[DEFAULT]}{behind}. So the presets keep it."
    ahead = f"*{next_best}*, in {others[next_best]}"
    return f"{text} Best or as good as the best most often: {ahead}. The presets should take it."


def by_ratio(found: Mapping[str, Rows]) -> str:
    """Who is best, or as good as the best, on how many networks at each ratio."""
    said = []
    for ratio in RATIOS:
        each = [rows[ratio] for rows in found.values() if rows.get(ratio) and rows[ratio][0].kept.low > 0]
        good: dict[str, int] = {}
        for rows in each:
            for row in rows:
                good[row.name] = good.get(row.name, 0) + (row is rows[0] or not apart(rows[0].over(row)))
        most = max(good.values(), default=0)
        names = format_list([f"*{name}*" for name, count in good.items() if count == most])
        if good:
            said.append(f"at {ratio}x {names} in {most} of {len(each)}")
    return f"Best or as good as the best most often: {'; '.join(said)}." if said else ""


@styled
def plot(found: Sequence[tuple[Network, Rows]]) -> Figure | None:
    """What is kept over the ratio, a panel a network, a line a technique, with intervals."""
    from matplotlib.figure import Figure

    panels = [(network, rows) for network, rows in found if any(rows.values())]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * _PANEL[0], lines * _PANEL[1] + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for panel, (network, rows) in zip(axes, panels, strict=False):
        _panel(panel, network, rows)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    entries = []
    for place, technique in enumerate(TECHNIQUES):
        colour, marker = series_style(place)
        entries.append(legend_mark(marker, colour, technique.title))
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel(axes: Axes, network: Network, rows: Rows) -> None:
    for place, technique in enumerate(TECHNIQUES):
        colour, marker = series_style(place)
        drawn = []
        for index, ratio in enumerate(RATIOS):
            row = next((row for row in rows.get(ratio, ()) if row.name == technique.title), None)
            if row is None:
                continue
            kept = row.kept
            across = index + _SHIFT * (place - (len(TECHNIQUES) - 1) / 2)
            low, point, high = (_shown(value) for value in (kept.low, kept.point, kept.high))
            axes.plot([across, across], [low, high], color=colour, linewidth=1.4)
            drawn.append((across, point))
        if drawn:
            axes.plot(
                *zip(*drawn, strict=True),
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=0.9,
                alpha=0.85,
            )
    axes.axhline(1, color=INK, linewidth=0.8, alpha=0.4)
    if any(row.kept.low < 0.5 for each in rows.values() for row in each):  # else chance is far below
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.4)
    axes.set_xticks(range(len(RATIOS)), [f"{ratio}x" for ratio in RATIOS])
    axes.set_xlim(-0.4, len(RATIOS) - 0.6)
    axes.set_title(network.title, fontsize=10)
    axes.set_ylabel("kept (chance is 0 %)")
    percent_axis(axes.yaxis)
    grid(axes, "y")


def _shown(value: float) -> float:
    """At the lower edge where it is below chance: one lost network must not flatten the others."""
    return max(LOWEST, value) if math.isfinite(value) else LOWEST


def techniques(shown: Sequence[Technique]) -> str:
    """What is compared."""
    lines = [[one.title, "joint" if one.joint else "alone", one.what] for one in shown]
    return "\n".join(
        ["| technique | | made by |", "| --- | --- | --- |", *(f"| {' | '.join(line)} |" for line in lines)]
    )
