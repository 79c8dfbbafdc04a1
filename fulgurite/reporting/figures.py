"""How the plots look: one style, axes in bytes and per cent, marks with intervals, two forms on disk.

@styled plot -> Figure -> inline_svg (text as text, colours by CSS variables) | save_png (white, for Markdown)

Colours are those of Okabe and Ito, "Color Universal Design", https://jfly.uni-koeln.de/color/: told apart
with any colour vision. Each comes with a marker or a hatch, so that a grey print can be read too.
Figures are made without pyplot: nothing is left behind in its state, and no display is asked for.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fulgurite.artifact.files import write_file
from fulgurite.reporting.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

INK = "#1b1f24"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
MARKERS = ("o", "s", "D", "^", "P", "v", "X")
LOWEST = -0.05  # retentions below are drawn here: one diverged try must not flatten all others

_WIDTH = 7.2  # inches: the text column of the report
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # a stage may be called "a$b$"
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
}


def styled(plot: Callable[[Any], Figure | None]) -> Callable[[Any], Figure | None]:
    """Draw with the report's style, whatever the user's matplotlibrc says, and leave that as it was."""

    @functools.wraps(plot)
    def draw(record: Any) -> Figure | None:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return plot(record)

    return draw


def new_axes(height: float) -> tuple[Figure, Axes]:
    """A figure of the report's width with one pair of axes; ``height`` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write a name at each row, the first on top."""
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def series_style(index: int) -> tuple[str, str]:
    """Colour and marker of a series; the 8th has the first colour with the next marker."""
    return SERIES[index % len(SERIES)], MARKERS[(index + index // len(SERIES)) % len(MARKERS)]


def shortened(name: str, width: int = 28) -> str:
    """A name that leaves room for the data; the tables have all of it."""
    head = (width - 3) // 2
    return name if len(name) <= width else f"{name[:head]}...{name[head + 3 - width :]}"


def grid(axes: Axes, which: Literal["x", "y", "both"]) -> None:
    """Faint lines behind the data."""
    axes.grid(axis=which, color=INK, alpha=0.13, linewidth=0.7)


def byte_axis(axis: Axis) -> None:
    """Ticks in B, kB, MB, GB. Call it last: on a logarithmic axis they depend on its range."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if axis.get_scale() == "log":
        log_axis(axis)
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short_bytes(value)))


def log_axis(axis: Axis) -> None:
    """Ticks at powers of ten, and between them where there is room. Call it last."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    subs = range(1, 10) if high < 10 * low else (1, 2, 5) if high < 300 * low else (1,)
    axis.set_major_locator(LogLocator(subs=list(subs)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short_bytes(num_bytes: float) -> str:
    number, unit = format_bytes(max(num_bytes, 0)).split()
    return f"{float(number):g} {unit}" if num_bytes else "0"


def percent_axis(axis: Axis) -> None:
    """Ticks that show fractions as per cent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %"))


def legend_mark(marker: str, colour: str, label: str, filled: bool = True) -> Line2D:
    """One entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        marker=marker,
        color=colour,
        label=shortened(label),
        linestyle="none",
        markersize=9 if marker == "*" else 6,
        markerfacecolor=colour if filled else "none",
        markeredgewidth=2.5 if marker == "|" else 1.3,
    )


def legend(axes: Axes, entries: Sequence[Line2D]) -> None:
    """The legend under the axes, where it covers no data."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    longest = max(len(str(entry.get_label())) for entry in entries)
    columns = min(5, len(entries), max(1, 95 // (longest + 8)))  # 95 letters and marks fit the width
    figure.legend(handles=list(entries), loc="outside lower center", ncols=columns, frameon=False)


def draw_bound(
    axes: Axes, size: float, point: float, low: float | None, colour: str, marker: str, filled: bool
) -> None:
    """A retention over its size, with the lower confidence bound as a stroke down."""
    point = max(point, LOWEST)
    low = point if low is None else max(low, LOWEST)
    face = colour if filled else "none"
    axes.plot([size, size], [low, point], color=colour, linewidth=1.3)
    axes.plot(size, low, marker="_", color=colour, markersize=11, linestyle="none")
    axes.plot(
        size,
        point,
        marker=marker,
        color=colour,
        markersize=7,
        markerfacecolor=face,
        markeredgewidth=1.4,
        linestyle="none",
    )


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an ``<svg>`` element for a page.

    Its colours are CSS variables (``--ink``, ``--series-0`` and on) with the light theme's as fallback, its
    ids begin with ``name`` so that several fit into one page, and it scales with its container.

    Args:
        figure: From one of the plots.
        name: Unique in the page; letters, digits and underscores.
        alt: What a screen reader says instead; must be escaped already.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):  # the salt makes the ids reproducible
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for index, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--series-{index}, {colour})")
    svg = svg.replace(INK, f"var(--ink, {INK})")
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{alt}">{rest}'


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure on white at 160 dots an inch."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=160)
    write_file(path, buffer.getvalue())
