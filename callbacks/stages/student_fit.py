r"""Train a student inside a stage, and tell what it gained on held-out windows.

windows, shuffled -> held out -> loss before, loss after
                  \-> batches by step -> Lightning fit, from its last checkpoint -> student
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from callbacks.stages.quiet_fit import quiet_fit, steps_done
from callbacks.stages.structure import Work
from lightning_modules.distillation import Distillation
from lightning_modules.refinement import StepBatches


@dataclass(frozen=True)
class StudentFit:
    """A training of a student.

    Args:
        steps: Optimiser steps; 0 leaves the student as it is.
        batch_size: Windows in a batch.
        held_out: Windows to judge by, at most; never more than half of all.
        seed: Of the order of the windows.
        checkpoint_every: Steps between checkpoints; a killed run goes on from the last.
        accumulate: Batches to a step.
        gradient_clip: Largest norm of the gradient.
        precision: Lightning's; full by default.
        callbacks: For the fit.
    """

    steps: int
    batch_size: int
    held_out: int
    seed: int
    checkpoint_every: int
    accumulate: int = 1
    gradient_clip: float = 1.0
    precision: str | None = None
    callbacks: Sequence[Callback] = ()

    def run(
        self, work: Work, training: Distillation, count: int, batch: Callable[[Tensor], dict[str, Any]]
    ) -> dict[str, float]:
        """Train in place.

        Args:
            work: For the device, the folder of the checkpoint and whoever waits.
            training: With the student; on the device.
            count: Windows in all.
            batch: Makes a batch of the indices of some, ``[n]``.

        Returns:
            ``loss_first`` and ``loss_last`` on the held-out windows.

        Raises:
            ValueError: If there are fewer than two windows.
        """
        if count < 2:
            raise ValueError(f"a student needs at least 2 windows of text, got {count}")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))[:, None]
        held_out = min(self.held_out, count // 2)
        judged = [batch(some[:, 0]) for some in torch.split(order[:held_out], self.batch_size)]
        first = last = training.mean_loss(judged)
        if self.steps:
            checkpoint = work.folder / "student.ckpt"
            batches = StepBatches(
                order[held_out:],
                lambda chosen: batch(chosen[:, 0]),
                batch_size=self.batch_size,
                steps=self.steps * self.accumulate,
                first_step=steps_done(checkpoint) * self.accumulate,
                seed=self.seed,
            )
            # in eval mode, without dropout: the teacher's answers are no labels to overfit, and a step that knows no
            # chance is the same after a kill
            training.student.requires_grad_(True)
            quiet_fit(
                training,
                batches.loader(),
                checkpoint,
                work.device,
                steps=self.steps,
                gradient_clip=self.gradient_clip,
                checkpoint_every=self.checkpoint_every,
                accumulate=self.accumulate,
                precision=self.precision,
                callbacks=self.callbacks,
                progress=lambda step, loss: work.progress("distil", step, self.steps, loss),
                check=work.check,
            )
            last = training.mean_loss(judged)
        return {"loss_first": first, "loss_last": last}
