"""Measure the curves of a stage's weights: shared out over ranks, one file a weight.

ladder of candidates, weight, metric -> bytes, distortion, effect on the network -> curves/<weight>.json

The files outlive the try: candidates and weights of all tries of a stage are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.stages.allocating import Allocate
from callbacks.stages.binding import bind_ladders
from callbacks.stages.metric_file import Metrics
from callbacks.stages.selection import share_out
from fulgurite.allocation import (
    Curve,
    Effect,
    Measured,
    Probe,
    Statistics,
    candidate_of,
    measure,
    statistics_of,
)
from fulgurite.artifact.files import write_file
from fulgurite.calibration import Metric
from fulgurite.codecs import Codec

_PROBED = (1.0, 4.0)
"""Bits at which effects are probed: below, all is lost; above, too little is."""


@dataclass(frozen=True)
class Curves:
    """What was measured of all weights."""

    curves: Sequence[Curve[Codec]]
    effects: Mapping[str, Sequence[Effect]]
    statistics: Mapping[str, Statistics]


def measure_curves(
    ladders: Mapping[str, Sequence[Codec]],
    weights: Mapping[str, Tensor],
    metrics: Metrics,
    allocate: Allocate,
    folder: Path,
    *,
    probe: Callable[[], Probe],
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> None:
    """Measure this rank's share of the weights into ``folder``; what is there already is kept.

    Args:
        ladders: Candidates of each weight.
        weights: By name.
        metrics: By name; a weight may have none.
        allocate: Settings.
        folder: Of the stage; the same for all ranks.
        probe: Gives the network to probe; called once, and only where slopes are asked for and missing.
        rank: This process.
        world_size: Number of processes.
        device: Where to encode.
        progress: Called with the name of each weight that is done.

    Raises:
        ValueError: If a weight cannot be coded; names it.
    """
    share = share_out({name: float(weights[name].numel()) for name in ladders}, world_size)[rank]
    missing = [name for name in ladders if name in share and _load(folder, name, ladders, allocate) is None]
    bound = bind_ladders(ladders, weights, metrics) if missing else {}
    running = probe() if missing and allocate.strategy == "slope" else None
    total = sum(weights[name].numel() for name in ladders)
    for name in [name for name in ladders if name in share]:
        if name in missing:
            metric = metrics.get(name, Metric())
            metric = replace(
                metric, hessian=_on(metric.hessian, device), row_weight=_on(metric.row_weight, device)
            )
            weight = weights[name].detach().to(device)
            try:
                found = measure(
                    weight,
                    [bound[codec][name] for codec in ladders[name]],
                    metric,
                    most=allocate.sample,
                    losses=None if running is None else _losses(running, name),
                    probe_bits=_probe_bits(allocate, total),
                )
                known = None
                if allocate.strategy not in ("slope", "uniform"):
                    known = statistics_of(weight, metric.hessian, metric.row_weight)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            _save(curve_path(folder, name), _key(ladders[name], allocate), found, known)
        if progress is not None:
            progress(name)


def read_curves(
    ladders: Mapping[str, Sequence[Codec]], weights: Mapping[str, Tensor], allocate: Allocate, folder: Path
) -> Curves:
    """What all ranks have measured."""
    curves, effects, known = [], {}, {}
    for name, ladder in ladders.items():
        found = _load(folder, name, ladders, allocate)
        if found is None:
            raise RuntimeError(f"{curve_path(folder, name)}: not there; is the folder shared by all ranks?")
        numel, sampled = weights[name].numel(), bool(found["sampled"])
        candidates = tuple(
            candidate_of(codec, num_bytes, distortion, numel=numel, sampled=sampled)
            for codec, (num_bytes, distortion) in zip(ladder, found["candidates"], strict=True)
        )
        curves.append(Curve(name, numel, candidates))
        effects[name] = [Effect(**effect) for effect in found["effects"]]
        if found["statistics"] is not None:
            known[name] = Statistics(**found["statistics"])
    return Curves(curves, effects, known)


def curve_path(folder: Path, name: str) -> Path:
    """File of one weight's curve."""
    return folder / f"{name}.json"


def _losses(probe: Probe, name: str) -> Callable[[Tensor], list[float]]:
    return lambda replacement: probe.losses(name, replacement)


def _on(part: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if part is None else part.to(device)


def _probe_bits(allocate: Allocate, numel: int) -> float:
    """About the bits that weights will have: there slopes should be right."""
    target = allocate.target()
    bits = target.bits_per_weight or 2.0
    if target.num_bytes is not None:
        bits = 8 * target.num_bytes / numel
    return min(max(bits, _PROBED[0]), _PROBED[1])


def _key(ladder: Sequence[Codec], allocate: Allocate) -> str:
    """What a file was measured with; another one is not taken."""
    told = f"{ladder} {allocate.strategy} {allocate.probe_windows} {allocate.sample}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _save(path: Path, key: str, found: Measured, known: Statistics | None) -> None:
    content = {
        "key": key,
        "candidates": [[one.num_bytes, one.distortion] for one in found.candidates],
        "sampled": found.sampled,
        "effects": [effect.to_dict() for effect in found.effects],
        "statistics": None if known is None else known.to_dict(),
    }
    write_file(path, json.dumps(content, indent=1).encode())


def _load(
    folder: Path, name: str, ladders: Mapping[str, Sequence[Codec]], allocate: Allocate
) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(curve_path(folder, name).read_text())
    except (FileNotFoundError, ValueError):  # not measured yet, or damaged
        return None
    return found if found["key"] == _key(ladders[name], allocate) else None
