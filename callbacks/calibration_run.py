"""The metrics that a stage codes by: gathered once, then read from the try's folder, by all ranks.

each rank: its share of the calibration batches -> sums -> rank 0 -> try-<k>/metrics.safetensors -> each rank
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.level import Level
from callbacks.rank_work import own_work
from callbacks.stages.metric_file import METRICS_NAME, Metrics, write_metrics
from callbacks.stages.stage import Stage
from fulgurite.calibration import Share, gather_metrics
from fulgurite.codecs import Codec

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun


def stage_metrics(
    run: CascadeRun, stage: Stage, ladders: Mapping[str, Sequence[Codec]], level: Level, folder: Path
) -> Metrics:
    """The metrics of the weights whose codecs use one; each rank gathers them over its share of the batches."""
    wanted = [
        name
        for name, ladder in ladders.items()
        if stage.allocate is not None or any(codec.uses_hessian for codec in ladder)
    ]
    if stage.metric == "identity" or not wanted:
        return Metrics(None)
    path = folder / METRICS_NAME
    if run.trainer.strategy.broadcast(not path.exists()):
        with run.console.calibrating() as progress, own_work(run.rank):

            def advance(done: int) -> None:
                progress(done)
                run.stop.check()

            with run.devices.everywhere(level.network(run.subject, stage.source)) as network:
                found = gather_metrics(
                    network,
                    run.module.calibration_batches(run.datamodule),
                    wanted,
                    stage.metric,
                    sampled_loss=run.module.sampled_loss,
                    count_places=run.module.count_places,
                    text_mask=run.module.text_mask,
                    progress=advance,
                    share=Share(run.rank, run.world_size, run.devices.in_step),
                    room=run.devices.room(),
                )
                del network  # of parts the memory is free with the last who knows them
        if run.rank == 0:
            write_metrics(path, found)
    run.trainer.strategy.barrier("calibrated")
    metrics = Metrics(path)
    run.console.fallbacks(stage.metric, metrics.fallbacks)
    return metrics
