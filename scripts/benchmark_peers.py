"""Fulgurite beside other compressors, on the same networks, texts and machine: writes ``docs/peers.md``.

    python scripts/benchmark_peers.py --data ../shared/data --network all --output docs/peers.md
    python scripts/benchmark_peers.py --data ../shared/data --network books6m --only "ours*" --force
    python scripts/benchmark_peers.py --data ../shared/data --page

Makes the peers' environments where they are missing, runs every row that has no result yet (or whose packages or
recipe have changed), and writes the page from all results there are. What was measured with other sources of ours
than those of today gets a star; ``--force`` runs it again. Each row runs in processes of its own
(``peers/worker.py``). ``--only`` takes method names and labels of rows, with ``*``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from peers.methods import OURS, Row, rows
from peers.networks import NETWORKS
from peers.page import draw, page, section
from peers.results import Result, Runner, progress


def wanted(row: Row, patterns: Sequence[str]) -> bool:
    """Whether a row is among those to run: by its method or its label."""
    return not patterns or any(
        fnmatchcase(name, pattern) for name in (row.method, row.label) for pattern in patterns
    )


def rows_of(network: str) -> list[Row]:
    """All rows of a network: the peers', then ours."""
    return [*rows(NETWORKS[network]), *OURS.get(network, [])]


def run(runner: Runner, networks: Sequence[str], patterns: Sequence[str], force: bool) -> None:
    """Fill the gaps, network by network; a failure is kept as one and does not stop the others."""
    for network in networks:
        for row in rows_of(network):
            known = runner.known(network, row)
            if not wanted(row, patterns) or (runner.current(known) and not force):
                continue
            began = time.perf_counter()
            found = runner.run(network, row)
            told = found.reason or f"{found.figures['bytes']:,} bytes, {found.figures['quality']:.4f}"
            progress(f"{network}: {row.label}: {told}", began)


def write(runner: Runner, output: Path, command: str) -> None:
    """Write the page and its plots from what is known of all networks.

    Raises:
        ValueError: If nothing is known.
    """
    sections: dict[str, str] = {}
    shown: list[Result] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    for name, network in NETWORKS.items():
        results = [found for row in rows_of(name) if (found := runner.known(name, row)) is not None]
        if not any(not found.reason for found in results):
            continue
        plot = f"{output.stem}_{name}.png"
        draw(network, results, output.with_name(plot))
        stale = frozenset(found.label for found in results if runner.stale(found))
        sections[name] = section(network, results, stale, plot)
        shown += results
    if not shown:
        raise ValueError(f"{runner.cache} must hold results to write a page of, holds none")
    output.write_text(page(sections, shown, command))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with models/, text/, bench/ and images/"
    )
    parser.add_argument("--network", choices=[*NETWORKS, "all"], default="all")
    parser.add_argument("--output", type=Path, default=Path("docs/peers.md"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/peers"), help="environments and results")
    parser.add_argument(
        "--only", action="append", default=[], help="rows to run, by method or label; repeatable"
    )
    parser.add_argument("--force", action="store_true", help="run them again, whatever is known")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what is known")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=3600, help="seconds that one process may take")
    given = parser.parse_args(arguments)
    runner = Runner(given.data, given.cache, given.threads, given.limit)
    networks = list(NETWORKS) if given.network == "all" else [given.network]
    if not given.page:
        run(runner, networks, given.only, given.force)
    data = given.data.name if given.data.is_absolute() else given.data
    write(runner, given.output, f"python scripts/benchmark_peers.py --data {data} --network all")


if __name__ == "__main__":
    main()
