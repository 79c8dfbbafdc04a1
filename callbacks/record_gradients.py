"""Record what bits the channels of a training's gradients take: what an ``EntropyPredictor`` learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from fulgurite.gradients.records import GradientRecords, record


class RecordGradients(Callback):
    """Writes statistics and measured bits of gradients at the end of a fit.

    Args:
        path: Of the file; ``gradients.safetensors`` in the run's folder by default.
        every: Optimiser steps from one record to the next.
        quantiser_steps: At which bits are measured, in units of each gradient's root mean square.
        channels: Of each matrix at most.
        min_size: Entries below which a matrix is left out.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        path: str | None = None,
        every: int = 20,
        quantiser_steps: tuple[float, ...] = (0.1, 0.3, 1.0, 2.0, 4.0),
        channels: int = 16,
        min_size: int = 1024,
    ) -> None:
        if every < 1 or channels < 1:
            raise ValueError(f"every and channels must be at least 1, got {every} and {channels}")
        if not quantiser_steps or min(quantiser_steps) <= 0:
            raise ValueError(f"quantiser_steps must be above 0 and one at least, got {list(quantiser_steps)}")
        self.path, self.every, self.channels, self.min_size = path, every, channels, min_size
        self.quantiser_steps = tuple(quantiser_steps)
        self._records: list[GradientRecords] = []

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.global_step % self.every or not trainer.is_global_zero:
            return
        gradients = {
            name: weight.grad
            for name, weight in pl_module.named_parameters()
            if weight.grad is not None and weight.dim() >= 2 and weight.numel() >= self.min_size
        }
        if gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()):
            self._records.append(record(gradients, trainer.global_step, self.quantiser_steps, self.channels))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._records:
            path = Path(self.path or Path(trainer.default_root_dir) / "gradients.safetensors")
            GradientRecords.joined(self._records).save(path)
