"""``fulgurite analyze subspaces|sensitivity|sparsity|profile``: a network beside its compressed form."""

from __future__ import annotations

import argparse
import copy
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fulgurite.analysis.pages import Result, plain
from fulgurite.analysis.sensitivity import Score, divergence_score, measure_sensitivity
from fulgurite.cli._layout import check_layout
from fulgurite.cli.analyze_printing import print_result
from fulgurite.cli.lightning import _quiet, _quiet_loggers
from fulgurite.cli.main import UsageError

if TYPE_CHECKING:
    from torch import nn

    from fulgurite.cli.analyze_loading import Pair
    from fulgurite.evaluation.measure import Measure


def run(given: argparse.Namespace, flags: Sequence[str], command: str) -> int:
    """Load both networks and analyse them."""
    check_layout()
    _check(given)
    _quiet()
    from fulgurite.cli.analyze_loading import OWN, load_pair

    _quiet_loggers()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    actions: dict[str, Callable[[argparse.Namespace, Pair, str, str], Result]] = {
        "subspaces": _subspaces,
        "sensitivity": _sensitivity,
        "sparsity": _sparsity,
        "profile": _profile,
    }
    pair = load_pair(given, flags)
    before = f"the network of `{given.config}`" if given.reference == OWN else f"`{given.reference}`"
    result = actions[given.what](given, pair, f"`{pair.folder}` against {before}", command)
    page = None if given.output_dir is None else result.write(given.output_dir)
    if given.json:
        print(json.dumps(plain(result.facts), indent=1))
    else:
        print_result(result, page)
    return 0


def _check(given: argparse.Namespace) -> None:
    for name in ("limit", "passes", "top", "rank"):
        value = getattr(given, name, None)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if getattr(given, "batches", 0) < 0:
        raise UsageError(f"--batches must be at least 0, got {given.batches}")
    if not 0 < getattr(given, "energy", 1) <= 1:
        raise UsageError(f"--energy must be above 0 and at most 1, got {given.energy}")


def _subspaces(given: argparse.Namespace, pair: Pair, what: str, command: str) -> Result:
    from fulgurite.analysis.activations import compare_inputs
    from fulgurite.analysis.subspaces import weight_subspaces
    from fulgurite.analysis.telling import tell_subspaces

    ours, theirs = pair.weights(given.select)
    weights = weight_subspaces(ours, theirs, energy=given.energy, rank=given.rank)
    inputs = []
    if given.batches:
        inputs = compare_inputs(
            pair.reference,
            pair.compressed,
            pair.batches(given.batches),
            list(ours),
            energy=given.energy,
            rank=given.rank,
        )
    return tell_subspaces(weights, inputs, what, command)


def _sensitivity(given: argparse.Namespace, pair: Pair, what: str, command: str) -> Result:
    from fulgurite.analysis.telling import tell_sensitivity
    from fulgurite.models import unique_parameters

    found = measure_sensitivity(
        copy.deepcopy(pair.reference),  # the module's own is what some measures compare with
        unique_parameters(pair.compressed),
        _score(given, pair),
        by=given.by,
        seed=given.seed,
        progress=_tell,
    )
    return tell_sensitivity(found, what, command)


def _score(given: argparse.Namespace, pair: Pair) -> Score:
    """The divergence from the reference, or a measure of the gate."""
    if given.measure == "divergence":
        return divergence_score(pair.reference, pair.rows(given.limit), pair.module.divergence)

    def score(network: nn.Module) -> Measure:
        found = pair.module.evaluate_network(network, pair.datamodule, limit=given.limit)
        for measure in found.measures:
            if measure.name == given.measure:
                return measure
        known = ", ".join(["divergence", *(measure.name for measure in found.measures)])
        raise UsageError(f"--measure must be one of {known}, got {given.measure!r}")

    return score


def _sparsity(given: argparse.Namespace, pair: Pair, what: str, command: str) -> Result:
    from fulgurite.analysis.sparsity import PATTERNS, analyze_sparsity
    from fulgurite.analysis.telling import tell_sparsity

    patterns = given.patterns or PATTERNS
    sides = [
        (label, analyze_sparsity(weights, patterns))
        for label, weights in zip(("before", "after"), pair.weights(given.select), strict=True)
    ]
    return tell_sparsity(sides, what, command)


def _profile(given: argparse.Namespace, pair: Pair, what: str, command: str) -> Result:
    from fulgurite.analysis.profile import profile_network
    from fulgurite.analysis.telling import tell_profiles
    from fulgurite.artifact.loading import load

    batch = next(iter(pair.batches(1)))
    device = next(iter(batch.values())).device
    networks = {
        "reference": pair.reference,
        "artefact": pair.compressed,
        "artefact, packed": load(pair.folder, packed=True, device=device),
    }
    sides = [
        (label, profile_network(network, batch, passes=given.passes, top=given.top))
        for label, network in networks.items()
    ]
    return tell_profiles(sides, what, command)


def _tell(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total:
        print(f"\r{done}/{total} scores", end="\n" if done == total else "", file=sys.stderr, flush=True)
