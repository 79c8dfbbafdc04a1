"""``fulgurite diagnose``: errors and codebooks of a trained ``HierarchicalVqvae``, category by category."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fulgurite.cli._layout import check_layout
from fulgurite.cli.main import UsageError


def run(verb: str, arguments: Sequence[str]) -> int:
    """Measure a run's network on the rows of its recipe, and write a page."""
    check_layout()
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description="Errors, bits and codebooks of a trained HierarchicalVqvae by category, as a table and a page.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of a fulgurite fit with HierarchicalVqvae")
    parser.add_argument(
        "--table", help="measure on all rows of another table instead; it must have the same features"
    )
    parser.add_argument(
        "--split", choices=("train", "validation", "test", "all"), default="test", help="rows (default: test)"
    )
    parser.add_argument(
        "--output_dir", type=Path, metavar="DIR", help="folder of the page (default: the run's diagnosis)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers for a program")
    given = parser.parse_args(list(arguments))
    _diagnose(given, " ".join(["fulgurite", verb, *map(shlex.quote, arguments)]))
    return 0


def _diagnose(given: argparse.Namespace, command: str) -> None:
    from fulgurite.analysis.pages import plain
    from fulgurite.cli.analyze_printing import print_result
    from fulgurite.features.diagnosis import diagnose, diagnosis_page
    from fulgurite.vqvae.storing import load_hierarchy

    folder = given.run / "network" if (given.run / "network").is_dir() else given.run
    hierarchy = load_hierarchy(folder)
    data = _data(given.run, folder, given.table)
    split = "all" if given.table else given.split
    rows = data.rows(split)
    starts = range(0, len(rows), data.batch_size)
    batches = (rows.__getitems__(range(start, min(len(rows), start + data.batch_size))) for start in starts)
    found = diagnose(hierarchy, batches)
    pages = diagnosis_page(found, f"{data.table}, {split}", command)
    if given.json:
        print(json.dumps(plain(pages[0].facts), indent=1))
        return
    target = given.output_dir or given.run / "diagnosis"
    for page in pages:
        print_result(page, page.write(target))
    print(f"page: {_write_html(target, pages)}")


def _data(run: Path, folder: Path, table: str | None) -> Any:
    """The recipe's data module, prepared as the fit was."""
    from datamodules import FeatureDataModule
    from fulgurite.features.preparation import Preparation

    path = run / "config.yaml"
    if not path.is_file():
        raise UsageError(f"{path}: expected the recipe that a fit has left, found nothing")
    settings = yaml.safe_load(path.read_text(encoding="utf-8")).get("data") or {}
    if not str(settings.get("class_path", "")).endswith("FeatureDataModule"):
        raise UsageError(f"{path}: expected a fit on FeatureDataModule, found {settings.get('class_path')}")
    arguments = dict(settings.get("init_args") or {})
    kept = ["batch_size", "seed", "validation_share", "test_share", "cache_dir"]
    kept += [] if table is not None else ["data_dir", "columns"]
    data = FeatureDataModule(
        table or arguments["table"], **{key: arguments[key] for key in kept if key in arguments}
    )
    data.use_preparation(Preparation.read(folder / "preparation.json"))
    data.prepare_data()
    data.setup()
    return data


def _write_html(target: Path, pages: Sequence[Any]) -> Path:
    """One page with the tables, and the plots as SVG."""
    from html import escape

    from fulgurite.artifact.files import write_file
    from fulgurite.reporting.figures import inline_svg

    parts = []
    for page in pages:
        parts += [f"<h1>{escape(page.title)}</h1>", f"<p>{escape(page.lead)}</p>"]
        if page.figure is not None:
            parts.append(inline_svg(page.figure, page.name, escape(page.alt)))
        for table in page.tables:
            head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
            )
            parts.append(
                f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{escape(table.note)}</p>"
            )
    style = (
        "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}svg{max-width:100%}"
        "table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right}td:first-child,th:first-child"
        "{text-align:left}"
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Diagnosis</title><style>{style}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )
    path = target / "diagnosis.html"
    write_file(path, page.encode())
    return path
