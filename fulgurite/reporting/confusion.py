"""Two confusion matrices side by side on one scale.

counts [c, c] -> at most 20 classes -> shares of each row -> cells whose shade is the share
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fulgurite.reporting.figures import INK, SERIES, shortened, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 20  # rows that can be read
_NUMBERED = 12  # rows whose cells have room for a number
_DARKEST = 0.55  # opacity of a full cell: ink on it keeps a contrast of 4.5 to 1, on a dark page too
_SIZE = 3.1  # inches of a matrix


def confusion_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The classes that are drawn, as ``record["pictures"]["confusion"]``; ``None`` where there are none."""
    confusion: Mapping[str, Any] | None = record.get("pictures", {}).get("confusion")
    if confusion is None or len(confusion["classes"]) <= _MOST:
        return confusion
    from fulgurite.evaluation.benchmarks.pictures import Confusion  # loads torch, which a report needs not

    return vars(Confusion(**confusion).narrowed(_MOST))


@styled
def plot_confusion(record: Mapping[str, Any]) -> Figure | None:
    """What share of each class's pictures is taken for each class, by the reference and by the result."""
    confusion = confusion_of(record)
    if confusion is None or not confusion["classes"]:
        return None
    from matplotlib.figure import Figure

    names = [shortened(name, 16) for name in confusion["classes"]]
    figure = Figure(figsize=(7.2, _SIZE + 1.5), layout="constrained")
    before, after = figure.subplots(1, 2, sharey=True)
    for axes, side, title in ((before, "before", "reference"), (after, "after", "artefact")):
        _matrix(axes, confusion[side], len(names) - (confusion["others"] > 0))
        axes.set_title(title, fontsize="medium")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_xlabel("taken for")
    before.set_yticks(range(len(names)), names)
    before.set_ylabel("true class")
    _scale(figure)
    return figure


def _matrix(axes: Axes, counts: Sequence[Sequence[int]], framed: int) -> None:
    from matplotlib.patches import Rectangle

    size = len(counts)
    for row, cells in enumerate(counts):
        total = max(sum(cells), 1)
        for column, count in enumerate(cells):
            corner = (column - 0.5, row - 0.5)
            if count:
                shade = _DARKEST * count / total
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=SERIES[0], alpha=shade, linewidth=0))
                percent = round(100 * count / total)
                if size <= _NUMBERED and percent:
                    axes.text(column, row, str(percent), ha="center", va="center", fontsize="small")
            if row == column < framed:
                axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor=INK, linewidth=0.8))
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.tick_params(length=0, labelsize="small")
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_alpha(0.3)


def _scale(figure: Figure) -> None:
    from matplotlib.patches import Patch

    shares = (0.25, 0.5, 0.75, 1.0)
    shades = [
        Patch(facecolor=SERIES[0], alpha=_DARKEST * share, label=f"{share:.0%} of a row".replace("%", " %"))
        for share in shares
    ]
    figure.legend(handles=shades, loc="outside lower center", ncols=len(shades), frameon=False)
