"""What ``predict`` answers: a line of JSON each, on screen and in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override


class PredictionWriter(BasePredictionWriter):
    """Write predictions as they come; each rank to a file of its own.

    Args:
        folder: Where ``predictions.jsonl`` goes.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__("batch")
        self.folder = Path(folder)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path(trainer).write_text("")

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        entries = prediction if isinstance(prediction, list) else [prediction]
        lines = [json.dumps(entry, ensure_ascii=False, default=str) for entry in entries]
        with self._path(trainer).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        if trainer.is_global_zero:
            print("\n".join(lines))

    def _path(self, trainer: Trainer) -> Path:
        rank = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        return self.folder / f"predictions{rank}.jsonl"
