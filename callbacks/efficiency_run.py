"""What the result of a run costs to run, beside the reference: time and memory of a pass over one item.

a calibration batch, its first item -> measured passes of the reference and of the artefact -> hardware class
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from callbacks.level import Level
from fulgurite.artifact.loading import load
from fulgurite.artifact.manifest import read_manifest
from fulgurite.reporting.hardware import recommend_hardware

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun

_REPEATS = 10
_WARMUP = 2


def measure_run(run: CascadeRun, level: Level) -> dict[str, Any] | None:
    """Measure the reference and what a run has come to; ``None`` where the data gives nothing to pass through."""
    from fulgurite.evaluation.benchmarks.efficiency import measure_efficiency

    if run.devices.in_step:
        run.record.note("latency is not measured: the network is shared out over several devices")
        return None
    run.read_as(run.reference)
    batch = _one_item(run)
    if batch is None:
        run.record.note("latency is not measured: the data gives no batch to measure it on")
        return None
    found: dict[str, Any] = {
        "item": " and ".join(f"{name} {list(values.shape)}" for name, values in batch.items())
    }
    sides: list[tuple[str, Any, int]] = [("reference", run.reference.network, run.reference_bytes)]
    if level.folder is not None:
        size = read_manifest(level.folder).num_bytes
        sides.append(("artifact", load(level.folder, device=run.device), size))
    for name, network, num_bytes in sides:
        if name == "artifact":
            run.read_as(run.subject)
            batch = _one_item(run) or batch  # of the result's own tokenizer
        cost = measure_efficiency(network, batch, num_bytes=num_bytes, repeats=_REPEATS, warmup=_WARMUP)
        found[name] = asdict(cost)
        run.stop.check()
    return found | {"hardware": recommend_hardware(found.get("artifact", found["reference"]))}


def _one_item(run: CascadeRun) -> dict[str, Tensor] | None:
    """The first item of the first calibration batch, on the network's device."""
    try:
        batches = list(islice(iter(run.module.calibration_batches(run.datamodule)), 1))
    except (ValueError, FileNotFoundError):  # no text or pictures to train on: nothing to calibrate with
        return None
    if not batches:
        return None
    one = {name: values[:1].to(run.device) for name, values in batches[0].items()}
    return one if all(len(values) for values in one.values()) else None
