"""The reference's scores: measured once for these weights, this data and these settings.

weights, data, settings -> key -> kept? -> reference.npz in the run's folder, which all ranks read
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fulgurite.evaluation.cache import cached_result, reference_cache_key
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.storage import StorageError

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun


def measure_reference(run: CascadeRun, fingerprint: str) -> Evaluation:
    """The reference's scores: measured once for these weights, this data and these settings."""
    parts: dict[str, str | int | float] = {
        "format": 2,
        "weights": fingerprint,
        "data": str(run.data["sha256"]),
        "device": run.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if run.devices.in_step:  # each rank reads rows of its own
        parts["ranks"] = run.world_size
    key = reference_cache_key(parts)
    path = run.folder.path / "reference.npz"

    def evaluate() -> Evaluation:
        return run.evaluate(run.devices.network(run.network), "reference")

    def measure() -> None:
        if not _is_evaluation(path):
            cached_result(Path(run.cascade.cache_dir) / "reference", key, evaluate).save(path)

    run.devices.lead(measure)
    run.trainer.strategy.barrier("reference")
    return Evaluation.load(path)


def _is_evaluation(path: Path) -> bool:
    try:
        Evaluation.load(path)
    except (FileNotFoundError, StorageError):  # not measured yet, or cut by a crash
        return False
    return True
