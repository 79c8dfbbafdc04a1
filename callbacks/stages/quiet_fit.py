"""A Lightning fit inside a stage: silent, on one device, with checkpoints that a second start goes on from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader
from typing_extensions import override


def steps_done(checkpoint: Path) -> int:
    """Optimiser steps that an earlier start has done."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"])


def quiet_fit(
    module: LightningModule,
    loader: DataLoader[Any],
    checkpoint: Path,
    device: torch.device,
    *,
    steps: int,
    gradient_clip: float = 1.0,
    checkpoint_every: int = 50,
    accumulate: int = 1,
    precision: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: Callable[[int, float], None] | None = None,
    check: Callable[[], None] | None = None,
) -> None:
    """Train ``module`` for so many optimiser steps, going on from ``checkpoint`` where it is there.

    Args:
        module: On ``device`` afterwards.
        loader: Batches from the step on that ``steps_done`` tells.
        checkpoint: Written every so many steps and where ``check`` raises, each time whole or not at all.
        device: Where to train.
        steps: Optimiser steps in all.
        gradient_clip: Largest norm of the gradient.
        checkpoint_every: Steps between two checkpoints.
        accumulate: Batches to an optimiser step.
        precision: Lightning's, such as ``bf16-mixed``; full by default.
        callbacks: Copied: what they remember belongs to this fit.
        progress: Called with the step and its loss.
        check: Called after each step but the last; what it raises ends the fit.
    """
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = Trainer(
        default_root_dir=checkpoint.parent,
        strategy=SingleDeviceStrategy(device=device, accelerator=None),
        accelerator="cpu" if device.type == "cpu" else device.type,
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=gradient_clip,
        callbacks=[
            _Report(progress),
            *[deepcopy(callback) for callback in callbacks],
            _KeepCheckpoint(
                checkpoint, checkpoint_every, check
            ),  # last: what the others make of a step belongs to it
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        barebones=False,
    )
    trainer.fit(module, loader, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    module.to(device)  # the strategy's teardown moves it to the CPU


class _KeepCheckpoint(Callback):
    """Save every so many steps, and where the run is asked to stop; in place and atomically."""

    def __init__(self, path: Path, every: int, check: Callable[[], None] | None) -> None:
        self._path = path
        self._every = every
        self._check = check

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step >= trainer.max_steps:
            return  # within a step its gradients would be lost; after the last one others have yet to end their work
        try:
            if self._check is not None:
                self._check()
        except Exception:
            self._save(trainer)
            raise
        if trainer.global_step % self._every == 0:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        fresh = self._path.with_suffix(".new")
        trainer.save_checkpoint(fresh)
        fresh.replace(self._path)


class _Report(Callback):
    def __init__(self, progress: Callable[[int, float], None] | None) -> None:
        self._progress = progress

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is not None:
            self._progress(trainer.global_step, float(outputs["loss"]))
