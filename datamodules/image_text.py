"""Pictures with texts: what the image-text data modules have in common.

files -> PictureTable -> without broken pictures -> train | validation | test -> Pictures
Pictures -> order of the epoch -> batches {"pixel_values", "input_ids", "label", "index"}
         -> calibration rows [n, 1 + tokens] -> keyword arguments of the network
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.images import chance
from datamodules.images.augmentation import Augment
from datamodules.images.cache import PictureCache
from datamodules.images.checking import Check, broken_pictures
from datamodules.images.dataset import Batch, PictureDataset, as_made, chosen_texts
from datamodules.images.pictures import Pictures
from datamodules.images.samplers import BalancedSampler, BucketedSampler, RankOrder
from datamodules.images.settings import at_least, one_of
from datamodules.images.table import PictureTable, evenly_spaced
from datamodules.images.tokens import TokenRows
from datamodules.loader import EpochSampler, ResumableDataLoader
from fulgurite.models.adapter import ImageSettings, ImageTextAdapter

_MB = 1 << 20


class ImageTextDataModule(LightningDataModule):
    """Pictures with texts, made into what the network reads.

    A subclass says which splits there are and reads each as a ``PictureTable``. Where there is no validation
    split, a seeded part of the train pictures takes its place.

    Args:
        batch_size: Pictures in a batch, each with one text.
        num_workers: Processes that make batches; 0 makes them in the process that trains.
        augment: How train pictures are changed: ``none``, ``flip``, ``crop_flip`` (shifted by up to an eighth of the
            side, and flipped) or ``trivial`` (TrivialAugment, then ``crop_flip``).
        sampler: Order of the train pictures: ``shuffle``, ``balanced`` (each class equally often) or ``bucketed``
            (captions of like length in a batch).
        cache_mb: MiB of decoded and resized pictures that are kept, the least recently used dropped beyond it;
            workers share it out.
        fast_resize: Resize train pictures by torchvision: 1.7 times as many a second, on photos at most one level of
            255 away from the pixels that evaluation sees.
        check: How far pictures are read beforehand to find broken ones: ``decode`` all of each, its ``header``,
            or whether it ``exists``. What took long is kept in ``cache_dir``.
        max_broken: Share of a split's pictures that may be broken or missing; these are left out and named.
        evaluation_split: Which split a cascade judges by.
        calibration_images: Train pictures that ``calibration_batches`` gives at most, evenly spaced.
        limit_train: Train pictures at most, evenly spaced; ``None`` takes all.
        validation_share: Share of the train pictures held out where there is no validation split.
        data_dir: Folder that relative paths start from.
        cache_dir: Folder for what checking pictures found.
        seed: Seed of orders, augmentation, choice of texts and held-out pictures.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        augment: Augment = "none",
        sampler: Literal["shuffle", "balanced", "bucketed"] = "shuffle",
        cache_mb: int = 1024,
        fast_resize: bool = True,
        check: Check = "decode",
        max_broken: float = 0.01,
        evaluation_split: Literal["validation", "test"] = "validation",
        calibration_images: int = 256,
        limit_train: int | None = None,
        validation_share: float = 0.05,
        data_dir: str | None = None,
        cache_dir: str = ".cache/fulgurite",
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, calibration_images=calibration_images, limit_train=limit_train)
        at_least(0, num_workers=num_workers, cache_mb=cache_mb)
        one_of(("none", "flip", "crop_flip", "trivial"), augment=augment)
        one_of(("shuffle", "balanced", "bucketed"), sampler=sampler)
        one_of(("decode", "header", "exists"), check=check)
        one_of(("validation", "test"), evaluation_split=evaluation_split)
        if not 0 <= max_broken <= 1:
            raise ValueError(f"max_broken must be in [0, 1], got {max_broken}")
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), got {validation_share}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment: Augment = augment
        self.sampler = sampler
        self.fast_resize = fast_resize
        self.check: Check = check
        self.max_broken = max_broken
        self.evaluation_split = evaluation_split
        self.calibration_images = calibration_images
        self.limit_train = limit_train
        self.validation_share = validation_share
        self.seed = seed
        self.cache = PictureCache(cache_mb * _MB)
        self._folder = Path() if data_dir is None else Path(data_dir).expanduser()
        self._cache_dir = Path(cache_dir).expanduser()
        self._adapter: ImageTextAdapter | None = None
        self._rows: TokenRows | None = None
        self._splits: dict[str, Pictures] = {}
        self._alone = False

    # what a subclass says

    def own_splits(self) -> frozenset[str]:
        """Splits that the files have themselves."""
        raise NotImplementedError

    def read_table(self, split: str) -> PictureTable:
        """The pictures of one of ``own_splits``, broken ones too."""
        raise NotImplementedError

    # the network that reads

    @property
    def adapter(self) -> ImageTextAdapter:
        """The network's image settings and tokenizer.

        Raises:
            ValueError: If there is no network that brings them.
        """
        if self._adapter is None:
            module = None if self.trainer is None else self.trainer.lightning_module
            given = getattr(module, "adapter", None)
            if given is None:
                raise ValueError(
                    "there is no adapter: pictures and texts are made as the network wants them; fit an image-text "
                    "network on this data, or call use_adapter"
                )
            self.use_adapter(given)
            assert self._adapter is not None
        return self._adapter

    def use_adapter(self, adapter: ImageTextAdapter) -> None:
        """Take a loaded network's image settings and tokenizer; forgets what was made with others."""
        if self._adapter is None or self._adapter.images != adapter.images:
            self.cache.clear()
        if self._adapter is not adapter:
            self._rows = None
        self._adapter = adapter

    def _images(self) -> ImageSettings:
        return self.adapter.images

    @property
    def _tokens(self) -> TokenRows:
        adapter = self.adapter
        if self._rows is None:
            self._rows = TokenRows(adapter)
        return self._rows

    # splits

    def has_split(self, split: str) -> bool:
        """Whether there are pictures for ``split``, its own or held out of the train pictures."""
        own = self.own_splits()
        return split in own or (split == "validation" and "train" in own)

    @property
    def predict_split(self) -> str:
        """Which split ``predict`` reads."""
        return "test" if self.has_split("test") else "validation"

    def split(self, split: str) -> Pictures:
        """Pictures of ``train``, ``validation`` or ``test``, in the order of the file.

        Names and texts are there without a network; pixels are made as its adapter says.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If there is no such split, a file is not what it should be, or too many pictures are broken.
        """
        if split not in self._splits:
            if not self.has_split(split):
                have = sorted(name for name in ("train", "validation", "test") if self.has_split(name))
                raise ValueError(f"there is no {split} split; there is {', '.join(have) or 'none'}")
            held_out = split != "test" and "validation" not in self.own_splits()
            tables = {split: self._whole(split)} if not held_out else self._held_out()
            for name, table in tables.items():
                limited = table.limited(self.limit_train) if name == "train" else table
                fast = self.fast_resize and name == "train"
                self._splits[name] = Pictures(limited, self._images, self.cache, fast, self._cache_dir)
        return self._splits[split]

    def _held_out(self) -> dict[str, PictureTable]:
        train, validation = self._whole("train").hold_out(self.validation_share, self.seed)
        return {"train": train, "validation": validation}

    def _whole(self, split: str) -> PictureTable:
        table = self.read_table(split)
        broken = broken_pictures(table.store, table.names, self.check, self._cache_dir)
        return table.without(broken, self.max_broken)

    def evaluation(self) -> Pictures:
        """What a cascade judges by."""
        return self.split(self.evaluation_split)

    def describe(self) -> str:
        """Where ``evaluation`` comes from, in a few words."""
        return self.evaluation().description

    @override
    def prepare_data(self) -> None:
        verb = None if self.trainer is None else self.trainer.state.fn
        for split in self._read_by(verb):
            self.split(split)  # on one process of each machine: the others find what it has kept

    @override
    def setup(self, stage: str) -> None:
        for split in self._read_by(stage):
            self.split(split)  # a file that cannot be read is found before the run, not in it

    def _read_by(self, verb: str | None) -> list[str]:
        if verb == TrainerFn.TESTING:
            return ["test"]
        if verb == TrainerFn.PREDICTING:
            return [self.predict_split]
        return [split for split in ("train", "validation") if self.has_split(split)]

    # calibration

    def calibration_rows(self, limit: int | None = None) -> Tensor:
        """Train pictures, evenly spaced, by index, each with the tokens of one of its texts.

        Args:
            limit: Pictures at most; ``None`` takes all.

        Returns:
            int64 ``[n, 1 + tokens]``; the same each time.
        """
        pictures = self.split("train")
        indices = evenly_spaced(len(pictures), limit)
        texts = chosen_texts(pictures, self.seed, [0] * len(indices), indices, chance.CALIBRATION)
        return torch.cat([torch.tensor(indices, dtype=torch.int64)[:, None], self._tokens(texts)], dim=1)

    def row_batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the network for ``calibration_rows``, pictures as they are."""
        pixels = self.split("train").pixels(rows[:, 0].tolist()).to(rows.device)
        return self.adapter.batch(pixels, rows[:, 1:])

    def calibration_batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches of train pictures and texts as the network takes them; the same ones each time."""
        for rows in torch.split(self.calibration_rows(self.calibration_images), self.batch_size):
            yield self.row_batch(rows)

    # data loaders

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Train loaders made within are for one process that trains by itself, whatever the others do."""
        self._alone = True
        try:
            yield
        finally:
            self._alone = False

    def _share(self) -> tuple[int, int]:
        """Which of how many processes this one is."""
        if self._alone or self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        data = PictureDataset(self.split("train"), self._tokens, self.seed, self.augment, choose=True)
        if self.num_workers:
            data.learn_texts()
        rank, ranks = self._share()
        return ResumableDataLoader(
            data,
            batch_size=self.batch_size,
            sampler=RankOrder(self._order(data, ranks), rank, ranks),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_made,
            pin_memory=torch.cuda.is_available(),
            # a generator of its own: the loader then draws nothing from the global one
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _order(self, data: PictureDataset, ranks: int) -> EpochSampler:
        if self.sampler == "bucketed":
            return BucketedSampler(data.lengths, len(data), self.batch_size * ranks, self.seed)
        if self.sampler == "balanced":
            labels = data.pictures.labels
            if labels is None:
                raise ValueError(f"sampler: balanced needs classes; {data.pictures.description} has none")
            return BalancedSampler(np.asarray(labels), self.seed)
        return EpochSampler(data, self.seed)

    @override
    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return self._in_order("validation") if self.has_split("validation") else []

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("test")

    @override
    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._in_order(self.predict_split)

    def _in_order(self, split: str) -> DataLoader[Batch]:
        data = PictureDataset(self.split(split), self._tokens)
        if self.num_workers:
            data.learn_texts()
        return DataLoader(
            data,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_made,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )
