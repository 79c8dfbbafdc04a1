"""LightningDataModules: what is fed in."""

from datamodules.text import TextDataModule
from datamodules.windows import Windows

__all__ = ["TextDataModule", "Windows"]
