"""Parts of the image-text data modules: where pictures lie, how they become pixels, in which order they come."""

from datamodules.images.archives import TarStore, ZipStore
from datamodules.images.augmentation import Augment
from datamodules.images.cache import PictureCache
from datamodules.images.checking import Check
from datamodules.images.pictures import Pictures
from datamodules.images.samplers import BalancedSampler, BucketedSampler, RankOrder
from datamodules.images.stores import FolderStore, MemoryStore, PictureStore, open_store
from datamodules.images.table import PictureTable

__all__ = [
    "Augment",
    "BalancedSampler",
    "BucketedSampler",
    "Check",
    "FolderStore",
    "MemoryStore",
    "PictureCache",
    "PictureStore",
    "PictureTable",
    "Pictures",
    "RankOrder",
    "TarStore",
    "ZipStore",
    "open_store",
]
