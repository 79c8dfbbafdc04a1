"""``fulgurite analyze ablation|order``: runs of a recipe's variants, in processes of their own."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import yaml

from fulgurite.analysis.study import read_study, run_study
from fulgurite.analysis.telling import tell_study
from fulgurite.analysis.variants import Variant, ablation_variants, order_variants, recipe_of, stages_of
from fulgurite.cli.analyze_printing import print_result
from fulgurite.cli.main import UsageError
from fulgurite.reporting.units import format_time


def run(given: argparse.Namespace, flags: Sequence[str], command: str) -> int:
    """Run what has not ended, and tell what came of all."""
    try:
        recipe = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{given.config}: expected a recipe in YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(recipe, dict):
        raise UsageError(f"{given.config}: expected a recipe, a mapping of keys, got {type(recipe).__name__}")
    for name, value in (("--limit_windows", given.limit_windows), ("--threads", given.threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    try:
        stages = stages_of(recipe, given.stages)
        variants = (
            ablation_variants(stages)
            if given.what == "ablation"
            else order_variants(stages, given.orders, given.seed)
        )
    except ValueError as error:
        raise UsageError(f"{given.config}: {error}") from error
    recipes = [
        recipe_of(
            recipe,
            variant,
            cache_dir=str(given.output_dir / "cache"),
            limit_windows=given.limit_windows,
            threads=given.threads,
            keep_gate=given.keep_gate,
        )
        for variant in variants
    ]
    if not given.page:
        run_study(given.output_dir, variants, recipes, flags, tell=_Progress(len(variants)))
    study = read_study(given.output_dir, given.what, variants, seed=given.seed)
    what = f"`{given.config}` in {len(variants)} variants of its stages {', '.join(stages)}"
    result = tell_study(study, what, command)
    page = result.write(given.output_dir)
    if given.json:
        print(json.dumps(study.to_dict(), indent=1))
    else:
        print_result(result, page)
    return 0


class _Progress:
    """A line for each variant as it begins and ends, on standard error."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = time.monotonic()

    def __call__(self, place: int, variant: Variant, ended: bool) -> None:
        if not ended:
            self.began = time.monotonic()
            print(f"{place + 1}/{self.total} {variant.label} ...", end=" ", file=sys.stderr, flush=True)
        else:
            print(format_time(time.monotonic() - self.began), file=sys.stderr, flush=True)
