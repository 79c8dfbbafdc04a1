"""LightningDataModules: what is fed in."""

from datamodules.captions import CaptionsDataModule
from datamodules.class_folder import ClassFolderDataModule
from datamodules.features import FeatureDataModule
from datamodules.gradient_records import GradientRecordsDataModule
from datamodules.image_text import ImageTextDataModule
from datamodules.sentences import SentencesDataModule
from datamodules.shapes import ShapesDataModule
from datamodules.text import TextDataModule
from datamodules.web_shards import WebShardsDataModule
from datamodules.windows import Windows

__all__ = [
    "CaptionsDataModule",
    "ClassFolderDataModule",
    "FeatureDataModule",
    "GradientRecordsDataModule",
    "ImageTextDataModule",
    "SentencesDataModule",
    "ShapesDataModule",
    "TextDataModule",
    "WebShardsDataModule",
    "Windows",
]
