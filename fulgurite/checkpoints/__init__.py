"""What a run keeps of its stages: read, shown, made the result again. No torch here."""

from fulgurite.checkpoints.lightning import LightningCheckpoint, read_lightning_checkpoints
from fulgurite.checkpoints.reading import read_checkpoints, select_checkpoint
from fulgurite.checkpoints.restore import Restored, copy_checkpoint, restore_checkpoint
from fulgurite.checkpoints.stage import StageCheckpoint

__all__ = [
    "LightningCheckpoint",
    "Restored",
    "StageCheckpoint",
    "copy_checkpoint",
    "read_checkpoints",
    "read_lightning_checkpoints",
    "restore_checkpoint",
    "select_checkpoint",
]
