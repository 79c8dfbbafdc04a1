"""Pictures with texts from WebDataset shards, such as Conceptual Captions: train is streamed, the rest held in memory.

train shards -> ShardStream -> batches
             -> first samples -> split("train"): calibration
validation | test shards -> first samples -> Pictures
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.image_text import ImageTextDataModule
from datamodules.images.settings import at_least
from datamodules.images.shard_stream import ShardLoader, ShardStream, StreamSettings
from datamodules.images.shards import Tally, expand, read_shards
from datamodules.images.stores import MemoryStore
from datamodules.images.table import PictureTable


class WebShardsDataModule(ImageTextDataModule):
    """Pictures with texts from tar shards in the WebDataset form.

    A sample is ``KEY.jpg`` (``jpeg``, ``png``, ``webp``) beside ``KEY.txt`` or ``KEY.json``.
    Train samples are streamed: shards are shuffled in each epoch and dealt to processes and workers, and samples are
    shuffled within a buffer. A resumed run repeats no batch: it reads the shards up to where the checkpoint was made,
    without decoding (with several processes, up to where the first one was; with another number of workers, the
    epoch begins again). Without validation shards, a seeded share of the train shards is held out, at least one.

    Args:
        train: Shards: a name with braces (``cc3m-{00000..00331}.tar``) or a glob, or a list of such; also
            ``https://...`` and ``pipe:COMMAND``, as webdataset reads them.
        validation: The same, to choose and to gate by.
        test: The same, for the final figure.
        epoch_size: Train samples of an epoch over all processes. Without it an epoch ends with the shards; several
            processes need it, since each must make as many batches.
        shuffle_buffer: Samples among which a worker draws the next.
        caption_key: Key of the text, or of a list of texts, in ``json`` samples.
        held_images: Pictures of validation and of test at most, the first ones; they are kept in memory, encoded.
        kept_train: Train pictures, the first of the stream, that calibration chooses from; kept the same way.
        common: Settings of ``ImageTextDataModule``. ``max_broken`` also bounds the share of shards that are cut short;
            ``cache_mb`` does not count for streamed pictures.

    Raises:
        ValueError: If a number is out of range, or a setting is given that a stream cannot follow.

    Example:
        >>> data = WebShardsDataModule(
        ...     train="cc3m-train-{0000..0575}.tar", validation="cc3m-validation-*.tar"
        ... )
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        epoch_size: int | None = None,
        shuffle_buffer: int = 1000,
        caption_key: str = "caption",
        held_images: int = 5000,
        kept_train: int = 1024,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        at_least(1, epoch_size=epoch_size, shuffle_buffer=shuffle_buffer)
        at_least(1, held_images=held_images, kept_train=kept_train)
        if self.sampler != "shuffle":
            raise ValueError(f"sampler must be shuffle for shards, which are streamed; got {self.sampler}")
        if self.limit_train is not None:
            raise ValueError("limit_train does not go with shards; give fewer of them, or epoch_size")
        given = {"train": train, "validation": validation, "test": test}
        self._given = {split: names for split, names in given.items() if names}
        self.epoch_size = epoch_size
        self.shuffle_buffer = shuffle_buffer
        self.caption_key = caption_key
        self.held_images = held_images
        self.kept_train = kept_train
        self._urls: Mapping[str, list[str]] | None = None

    @property
    def shards(self) -> Mapping[str, list[str]]:
        """The shards of each split, held-out ones taken from train.

        Raises:
            FileNotFoundError: If a shard is missing.
            ValueError: If there is no shard to hold out.
        """
        if self._urls is None:
            urls = {split: expand(names, self._folder) for split, names in self._given.items()}
            if "train" in urls and "validation" not in urls:
                count = len(urls["train"])
                if count < 2:
                    raise ValueError(
                        f"{urls['train'][0]}: expected validation shards, or a second train shard to hold out"
                    )
                held = min(max(1, round(self.validation_share * count)), count - 1)
                chosen = set(random.Random(self.seed).sample(urls["train"], held))
                urls["validation"] = [url for url in urls["train"] if url in chosen]
                urls["train"] = [url for url in urls["train"] if url not in chosen]
            self._urls = urls
        return self._urls

    @override
    def own_splits(self) -> frozenset[str]:
        return frozenset(self._given) | ({"validation"} if "train" in self._given else set())

    @override
    def read_table(self, split: str) -> PictureTable:
        urls = self.shards[split]
        tally = Tally(len(urls), self.max_broken)
        most = self.kept_train if split == "train" else self.held_images
        samples = {
            sample.name: sample
            for sample in itertools.islice(read_shards(urls, tally, self.caption_key), most)
        }
        if not samples:
            raise ValueError(f"expected pictures in {len(urls)} shards, found none: {', '.join(urls[:3])}")
        store = MemoryStore(Path(urls[0]).parent, {name: sample.data for name, sample in samples.items()})
        first = f"first {len(samples)}" if len(samples) == most else f"{len(samples)}"
        description = f"{first} {split} pictures of {len(urls)} shards, {Path(urls[0]).name}"
        return PictureTable(description, store, list(samples), [sample.texts for sample in samples.values()])

    @override
    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        trainer = None if self._alone else self.trainer
        rank, ranks = self._share()
        urls = self.shards["train"]
        if ranks > 1 and self.epoch_size is None:
            raise ValueError(f"{ranks} processes need epoch_size: each must make as many batches")
        if len(urls) < ranks:
            raise ValueError(f"expected a train shard for each of {ranks} processes, found {len(urls)}")
        batches = None if self.epoch_size is None else max(1, self.epoch_size // (self.batch_size * ranks))
        settings = StreamSettings(
            tuple(urls),
            self.batch_size,
            batches,
            self.shuffle_buffer,
            self.augment,
            self.fast_resize,
            self.max_broken,
            self.caption_key,
            self.seed,
            rank,
            ranks,
        )
        return ShardLoader(
            ShardStream(settings, self.adapter),
            epoch=None if trainer is None else lambda: trainer.current_epoch,
            num_workers=min(
                self.num_workers, len(urls) // ranks
            ),  # a worker without shards has nothing to do
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )
