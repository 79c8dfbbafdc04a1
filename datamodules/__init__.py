"""LightningDataModules: what is fed in."""

from datamodules.sentences import SentencesDataModule
from datamodules.text import TextDataModule
from datamodules.windows import Windows

__all__ = ["SentencesDataModule", "TextDataModule", "Windows"]
