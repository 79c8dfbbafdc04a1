"""The page: a table and a plot for each network, and what the comparison comes to. No figure is typed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.compare import Match, Point, at_quality, front, goodness
from peers.methods import METHODS
from peers.network import CALIBRATION, Network
from peers.results import RECIPE, SOURCES, Result

HALF = 0.5
"""The goal for whole folders: at most this share of a peer's bytes at its quality."""
FEWER = 0.8
"""The goal for layers: at most this share of a peer's bits at its quality."""

INTRODUCTION = f"""# Compared with others

The same trained networks, texts and machine for everyone: every method compresses the network to a folder on disk,
the folder is loaded again in a new process, and one evaluator judges what comes back. Whoever fails has a row with
the reason.

- **bytes**: all files of the folder that hold weights or are needed to read them; the tokenizer apart. Peers keep
  embeddings, and here whatever is not `nn.Linear`, in 16 bits: that is part of their folder, and of what a user gets.
- **bits**: per weight of the whole network, and of its *layers* alone: all Linear and convolution weights with their
  scales and indices, without embeddings, norms and biases.
- **error**: `|W - W_hat| / |W|` over the layers. Methods that look at data accept more of it on purpose.
- **quality**: every layer of the reloaded network is asked what it multiplies with, and these weights are scored in a
  float32 network, so that nobody gains or loses by the arithmetic of its kernels.
- **time, memory**: from the original's folder to the compressed one, imports apart; wall and CPU seconds; peak
  resident memory beyond what there was before. Ours: the encoding and refinement of the command's record, and the
  memory of all of the command, its scoring included. Loading is timed the second time, since some peers compile
  code the first time. One thread for all.
- **at this quality**: our bytes and our layers' bits at the quality of the row, and their share of the row's. Between
  two measured points of ours the logarithm of the size is linear in the quality (in the logarithm of a perplexity);
  only points that no other of ours beats are used, and nothing is extrapolated: *not reached* where we have nothing
  as good, *at most* where even our smallest is better. A score above the original's counts as the original's, for
  peers and for us: what is more is luck.

Calibration, where a method asks for it: the same {CALIBRATION} items of training data for all (windows of 256 tokens,
sentences, images); auto-round sees sentences one after the other. Ours as its recipe says.
"""


@dataclass(frozen=True)
class Compared:
    """A peer's result and ours at its quality."""

    result: Result
    whole: Match | None
    layers: Match | None


def section(network: Network, results: Sequence[Result], stale: frozenset[str], plot: str) -> str:
    """One network's part of the page.

    Args:
        network: Which.
        results: Of all its rows, in order.
        stale: Labels of rows that were measured with other sources or packages than those of today.
        plot: File name of its plot.
    """
    compared = compare(network, results)
    parts = [f"## {network.title}", f"Quality is {network.how}.", f"![Quality against size]({plot})"]
    head = [
        *("", "bytes", "bits", "layer bits", "error", network.metric),
        *("seconds (CPU)", "peak, MB", "load, s", "our bytes at this quality", "share"),
        *("our layer bits at this quality", "share"),
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [_cells(network, entry, entry.result.label in stale) for entry in compared]
    parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append(summary(compared))
    kept = [
        entry.result
        for entry in compared
        if entry.result.figures.get("kept", 0) > HALF and not _original(entry)
    ]
    if kept:
        names = ", ".join(f"{result.label} ({result.figures['kept']:.1%})" for result in kept)
        parts.append(f"Leave most of the layers' weights as they were, here in 16 bits: {names}.")
    if any(entry.result.label in stale for entry in compared):
        parts.append("\\* measured with other sources or packages than those beside this page.")
    return "\n\n".join(parts) + "\n"


def compare(network: Network, results: Sequence[Result]) -> list[Compared]:
    """Each result with ours at its quality; of our own rows and failed ones nothing."""
    ours = [result for result in results if result.ours and not result.reason]
    top = max(
        (_good(network, result) for result in results if result.method == "original" and not result.reason),
        default=math.inf,
    )
    fronts = {
        size: front(Point(result.figures[size], min(_good(network, result), top)) for result in ours)
        for size in ("bytes", "layer_bits")
    }
    found = []
    for result in results:
        if result.ours or result.reason:
            found.append(Compared(result, None, None))
        else:
            good = min(_good(network, result), top)
            found.append(
                Compared(result, at_quality(fronts["bytes"], good), at_quality(fronts["layer_bits"], good))
            )
    return found


def summary(compared: Sequence[Compared]) -> str:
    """How often the two goals are met, in one paragraph."""
    peers = [
        entry for entry in compared if not (entry.result.ours or entry.result.reason or _original(entry))
    ]
    if not peers:
        return "No peer was measured."
    whole = sum(_share(entry.whole, entry.result.figures["bytes"]) <= HALF for entry in peers)
    layers = sum(_share(entry.layers, entry.result.figures["layer_bits"]) <= FEWER for entry in peers)
    failed = sum(bool(entry.result.reason) and not entry.result.ours for entry in compared)
    return (
        f"Of {len(peers)} points of peers, we have the quality in at most half of the bytes at {whole}, and in at "
        f"least 20 % fewer bits of the layers at {layers}."
        + f" {failed} rows of peers failed."
        * (failed > 0)
    )


def page(sections: Mapping[str, str], results: Sequence[Result], command: str) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *sections.values(), _about(results, command)])


def _about(results: Sequence[Result], command: str) -> str:
    versions: dict[str, set[str]] = {}
    for result in results:
        for package, version in result.versions.items():
            if package not in (SOURCES, RECIPE):
                versions.setdefault(package, set()).add(version)
    methods = [METHODS[name] for name in dict.fromkeys(result.method for result in results)]
    links = ", ".join(f"[{method.title}]({method.link})" for method in methods if method.link)
    packages = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))
    machines = ", ".join(sorted({result.machine for result in results}))
    loads = [value for result in results for value in result.load]
    threads = ", ".join(str(number) for number in sorted({result.threads for result in results}))
    return (
        "## How this page was made\n\n"
        f"`{command}`; {machines}; threads: {threads}; load average between {min(loads):.1f} and {max(loads):.1f}, so "
        "wall seconds are longer than on a quiet machine and CPU seconds hardly.\n\n"
        f"Packages: {packages}. Projects: {links}.\n"
    )


def draw(network: Network, results: Sequence[Result], path: Path) -> None:
    """Quality against bytes and against the layers' bits; peers by method, ours with its front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    good = [result for result in results if not result.reason]
    ours = [result for result in good if result.ours]
    peers = list(dict.fromkeys(result.method for result in good if not result.ours))
    for panel, size, scale, title in zip(
        panels,
        ("bytes", "layer_bits"),
        (1e6, 1),
        ("folder, MB", "bits per weight of the layers"),
        strict=True,
    ):
        for number, method in enumerate(peers):
            points = [(r.figures[size] / scale, r.figures["quality"]) for r in good if r.method == method]
            style = {"marker": "os^vDPX*<>hp"[number % 12], "color": f"C{number % 10}", "linestyle": ""}
            panel.plot(*zip(*points, strict=True), label=METHODS[method].title, markersize=6, **style)
        if ours:
            points = [(result.figures[size] / scale, result.figures["quality"]) for result in ours]
            panel.plot(*zip(*points, strict=True), "k.", markersize=7, label="fulgurite")
            best = front(Point(result.figures[size] / scale, _good(network, result)) for result in ours)
            heights = [p.quality if network.higher_is_better else math.exp(-p.quality) for p in best]
            panel.plot([point.size for point in best], heights, "k-", linewidth=1)
        panel.set(xscale="log", xlabel=title)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
    panels[0].set(ylabel=network.metric, yscale="linear" if network.higher_is_better else "log")
    panels[0].set_ylim(_limits([result.figures["quality"] for result in good], network.higher_is_better))
    panels[0].yaxis.set_major_locator(MaxNLocator(8))
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=90)


def _limits(scores: Sequence[float], higher_is_better: bool) -> tuple[float, float]:
    """Of the quality axis: what has broken down would leave no room for the rest."""
    finite = [score for score in scores if math.isfinite(score)]
    best = max(finite) if higher_is_better else min(finite)
    worst = min(finite) if higher_is_better else max(finite)
    if higher_is_better:
        worst = max(worst, 0.7 * best)
        return worst - 0.05 * (best - worst) - 1e-3, best + 0.05 * (best - worst) + 1e-3
    return best / 1.03, min(worst, 2.5 * best) * 1.03


def _cells(network: Network, entry: Compared, stale: bool) -> list[str]:
    result, figures = entry.result, entry.result.figures
    label = (f"**{result.label}**" if result.ours else result.label) + " \\*" * stale
    if result.reason:
        reason = result.reason.replace("|", "\\|").replace("`", "'")
        return [f"{label}: failed: `{reason}`", *["-"] * 12]
    score = figures["quality"]
    return [
        label,
        f"{figures['bytes']:,.0f}",
        f"{figures['bits']:.2f}",
        f"{figures['layer_bits']:.2f}",
        f"{figures['error']:.4f}",
        f"{score:.4f}" if score < 1 else f"{score:.2f}" if score < 1000 else f"{score:.2g}",
        f"{_seconds(figures['seconds'])} ({_seconds(figures['cpu_s'])})",
        f"{figures['peak_bytes'] / 1e6:.0f}",
        _seconds(figures["load_s"]),
        *_matched(entry, entry.whole, figures["bytes"], ",.0f"),
        *_matched(entry, entry.layers, figures["layer_bits"], ".2f"),
    ]


def _matched(entry: Compared, match: Match | None, size: float, form: str) -> list[str]:
    if entry.result.ours:
        return ["", ""]
    if match is None:
        return ["not reached", "-"]
    most = "at most " * match.at_most
    return [f"{most}{match.size:{form}}", f"{most}{match.size / size:.2f}"]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _share(match: Match | None, size: float) -> float:
    return math.inf if match is None else match.size / size


def _good(network: Network, result: Result) -> float:
    return goodness(result.figures["quality"], network.higher_is_better)


def _original(entry: Compared) -> bool:
    return entry.result.method == "original"
