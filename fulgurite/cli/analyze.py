"""``fulgurite analyze``: a network beside its compressed form, and what each stage of a recipe does."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from fulgurite.cli.main import UsageError

_EXAMPLES = """\
two networks:
  fulgurite analyze subspaces ../shared/data/models/stories260K runs/stories260k \\
    --config configs/recipes/stories260k.yaml
  fulgurite analyze sensitivity - runs/stories260k --config configs/recipes/stories260k.yaml --by block
  fulgurite analyze sparsity - runs/stories260k --config configs/recipes/stories260k.yaml
  fulgurite analyze profile - runs/stories260k --config configs/recipes/stories260k.yaml --output_dir runs/profile
a recipe's stages:
  fulgurite analyze ablation --config configs/recipes/order_stories260k.yaml --output_dir runs/stages
  fulgurite analyze order    --config configs/recipes/order_stories260k.yaml --output_dir runs/stages

The recipe says how the network is loaded and on which data it is read and judged. Flags that are not of `analyze` are
those of `fulgurite compress` and change the recipe: --model.source FOLDER, --data.calibration_windows 32.
A study that was stopped or killed goes on with the same command; runs that have ended are not run again.
"""
_NETWORKS = {
    "subspaces": "principal angles, Grassmann distances and CKA between weights and activations of the two",
    "sensitivity": "what each layer's compression costs: alone, and as part of the whole",
    "sparsity": "zeros of each weight, and patterns in them",
    "profile": "the operators of a forward pass by time and memory",
}
_STUDIES = {
    "ablation": "the recipe without each of its stages, against the whole",
    "order": "the recipe's stages in other orders, against its own",
}


def run(verb: str, arguments: Sequence[str]) -> int:
    """Analyse two networks, or a recipe's stages."""
    given, flags = _parser(verb).parse_known_args(list(arguments))
    module = "fulgurite.cli.analyze_networks" if given.what in _NETWORKS else "fulgurite.cli.analyze_studies"
    if not given.config.is_file():
        raise UsageError(f"{given.config}: no such recipe")
    status: int = importlib.import_module(module).run(given, flags, _command(verb, arguments))
    return status


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description="What a network and its compressed form have in common, and what each stage of a recipe does.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="what", metavar="|".join([*_NETWORKS, *_STUDIES]), required=True)
    for name, text in {**_NETWORKS, **_STUDIES}.items():
        sub = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
        )
        if name in _NETWORKS:
            _add_networks(sub, name)
        else:
            _add_studies(sub, name)
        sub.add_argument("--config", type=Path, required=True, metavar="RECIPE", help="recipe in YAML")
        sub.add_argument("--json", action="store_true", help="print the results for a program")
        sub.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    return parser


def _add_networks(sub: argparse.ArgumentParser, name: str) -> None:
    sub.add_argument(
        "reference",
        metavar="REFERENCE",
        help="the network before: as the recipe's model.source, or - for the network that the recipe names",
    )
    sub.add_argument("artefact", type=Path, metavar="ARTEFACT", help="an artefact, or a run's folder")
    sub.add_argument(
        "--output_dir", type=Path, metavar="DIR", help="write a page, a plot and the numbers there"
    )
    if name in ("subspaces", "sparsity"):
        sub.add_argument(
            "--select", nargs="+", default=["*"], metavar="PATTERN", help="weights to look at (default: all)"
        )
    if name == "subspaces":
        sub.add_argument(
            "--energy",
            type=float,
            default=0.9,
            help="share of the reference's energy that says how many directions count (default: 0.9)",
        )
        sub.add_argument("--rank", type=int, metavar="K", help="compare so many directions instead")
        sub.add_argument(
            "--batches",
            type=int,
            default=8,
            help="calibration batches to compare activations over (default: 8); 0 leaves activations out",
        )
    if name == "sensitivity":
        sub.add_argument(
            "--measure",
            default="divergence",
            help="divergence of the outputs on training data (default), or a measure of the gate such as bits_per_byte",
        )
        sub.add_argument(
            "--by", choices=("layer", "block"), default="layer", help="what is compressed together"
        )
        sub.add_argument(
            "--limit",
            type=int,
            default=32,
            help="windows, texts or pictures to measure on at most (default: 32)",
        )
    if name == "sparsity":
        sub.add_argument(
            "--patterns", nargs="+", metavar="PATTERN", help="N:M or blocks (default: 2:4 4:8 4x4)"
        )
    if name == "profile":
        sub.add_argument("--passes", type=int, default=5, help="forward passes to measure (default: 5)")
        sub.add_argument("--top", type=int, default=12, help="operators to list (default: 12)")


def _add_studies(sub: argparse.ArgumentParser, name: str) -> None:
    sub.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        metavar="STUDY",
        help="folder of the study: a run's folder for each variant; both kinds of study may share it",
    )
    sub.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="stages to take (default: all)")
    sub.add_argument(
        "--limit_windows",
        type=int,
        default=64,
        help="items to judge by where the recipe does not say (default: 64)",
    )
    sub.add_argument("--threads", type=int, help="threads of each run, where the recipe does not say")
    sub.add_argument(
        "--keep_gate",
        action="store_true",
        help="judge by the recipe's own gate with its retries; by default all pass that are above chance and smaller",
    )
    sub.add_argument(
        "--page", action="store_true", help="run nothing: read what has ended and write the page"
    )
    if name == "order":
        sub.add_argument(
            "--orders",
            type=int,
            default=24,
            help="orders at most (default: 24, all of four stages); more stages have a sample of them",
        )


def _command(verb: str, arguments: Sequence[str]) -> str:
    import shlex

    kept = [argument for argument in arguments if argument not in ("--json", "--page")]
    return " ".join(["fulgurite", verb, *map(shlex.quote, kept)])
