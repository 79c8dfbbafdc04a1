"""Prune, low rank, quantise and their joint forms at equal bytes: writes ``docs/stages.md`` and its plot.

    python scripts/stages_page.py --data ../shared/data
    python scripts/stages_page.py --data ../shared/data --only "stories*"
    python scripts/stages_page.py --data ../shared/data --page

Each technique on each network is a cascade of ``fulgurite compress`` in a process of its own, with a stage for each
ratio; then the cascades of ``configs/recipes/rcc_*.yaml``, and one codec in their bytes. What has ended is not run
again, and what was cut off goes on: all runs lie in ``--runs``. The emoji CLIP is fitted first, by ``make clip-blip``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from stages import page
from stages.cascades import CASCADES, compare, section
from stages.results import RESAMPLES, out_of_reach, read_rows, run
from stages.techniques import DATA_IN_RECIPES, NETWORKS, TECHNIQUES, Network, recipe_of

from fulgurite._version import __version__
from fulgurite.reporting.figures import save_png

RECIPES = Path(__file__).resolve().parents[1] / "configs/recipes"

HEAD = """\
# Which technique at which size

The same networks in the same bytes, coded by each technique alone and by joint forms: which keeps most? Every row is
a stage of `fulgurite compress` under a limit in bytes (`allocate`), from the reference's weights, with `metric: kl`,
its gate so low that all is measured; where rates come in steps less than the limit may be used. *Kept* is the mean,
over the gate's measures, of what is left of the reference's advantage over chance, with a 95 % interval from a paired
bootstrap over the held-out items ({draws:,} draws); below 0 % a network is worse than chance. Differences are drawn
in pairs, on the same items; two rows are *apart* where the interval of their difference leaves 0 out. *s* is the time
of coding on one core, shared with other work.

"""


PRESETS = (
    "`default.yaml` and `quality.yaml` go down to 2 and 4 bits a weight, 16x and 8x. `maximum.yaml` goes down to 1 "
    "bit, 32x, but trains for hundreds of steps and chooses codes anew meanwhile, which only `EcqCodec` can; most rows "
    "here are not trained. Where a row below is ahead of *ecq* without training, let the allocation choose: "
    "`candidates` with both codecs."
)


def runs_of(network: Network) -> list[str]:
    """Names of a network's runs."""
    return [f"{network.key}_{technique.key}" for technique in network.compared]


def ready(network: Network, data: Path, folder: Path) -> str:
    """What a network's runs lack, or nothing."""
    source = recipe_of(network, TECHNIQUES[0], RECIPES, data, folder.parent)["model"]["init_args"]["source"]
    if ":" in source or Path(source).is_dir():
        return ""
    return f"{network.title}: {source} must be a folder with a network, none is there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with models/, text/, images/ and bench/"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/stages"))
    parser.add_argument("--output", type=Path, default=Path("docs/stages.md"))
    parser.add_argument("--only", default="*", help="pattern over the names of runs, such as minilm_*")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page of what is there")
    given = parser.parse_args(arguments)
    folder: Path = given.runs
    if not given.page:
        folder.mkdir(parents=True, exist_ok=True)
        for network in NETWORKS:
            wanted = [name for name in runs_of(network) if fnmatchcase(name, given.only)]
            if wanted and (reason := ready(network, given.data, folder)):
                print(f"left out: {reason}", file=sys.stderr)
                continue
            for technique, name in zip(network.compared, runs_of(network), strict=True):
                if name in wanted:
                    print(f"{name}: {folder / name}.txt", file=sys.stderr)
                    run(folder, name, recipe_of(network, technique, RECIPES, given.data, folder.parent))
        for cascade in CASCADES:
            if fnmatchcase(cascade.key, given.only):
                compare(cascade, folder, RECIPES, given.data)
    return write(folder, given.data, given.output)


def write(folder: Path, data: Path, output: Path) -> int:
    """Write the page and the plot of what is there."""
    found = [(network, read_rows(folder, network)) for network in NETWORKS]
    found = [(network, rows) for network, rows in found if any(rows.values())]
    if not found:
        print(f"error: {folder} must hold runs to write a page of, holds none", file=sys.stderr)
        return 1
    figure = page.plot(found)
    image = output.with_name(f"{output.stem}_ratio.png")
    assert figure is not None  # there are rows
    output.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, image)
    parts = [HEAD.format(draws=RESAMPLES) + page.techniques(TECHNIQUES)]
    parts.append(f"![Kept over the ratio, with intervals]({image.name})")
    titled = {one.title: rows for one, rows in found}
    parts += ["## Which default follows", page.default(titled), page.by_ratio(titled), PRESETS]
    for network, rows in found:
        missing = {
            technique.title: reason
            for technique, name in zip(network.compared, runs_of(network), strict=True)
            if (
                reason := out_of_reach(
                    folder, name, recipe_of(network, technique, RECIPES, data, folder.parent)
                )
            )
        }
        parts.append(page.section(network, rows, missing))
    parts += [text for text in [section(folder)] if text]
    command = f"python scripts/stages_page.py --data {DATA_IN_RECIPES}"
    parts.append(f"All of it: `{command}`, `make stages`; fulgurite {__version__}.\n")
    output.write_text("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
