"""Ranks compare code and recipe before anything is trained or measured."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_modules.same_ranks import require_same


class SameRanks(Callback):
    """End a run on every rank where one of them has other code or another recipe; see ``require_same``."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_same(trainer, getattr(trainer, "recipe", None))
