"""Training batches from WebDataset shards, in an order that a resumed run goes on with.

    shards -> shuffled by seed and epoch -> dealt to ranks -> to workers -> samples -> shuffle buffer -> batches

Each batch tells how many samples its worker has taken so far. A checkpoint holds these numbers, and a resumed run reads
the shards up to there without decoding. So it repeats no batch, at the price of reading the bytes again.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import override

from datamodules.images import chance
from datamodules.images.augmentation import Augment, augmented
from datamodules.images.pictures import make_pixels
from datamodules.images.shards import Sample, Tally, read_shards
from datamodules.images.transforms import normalise
from fulgurite.models.adapter import ImageTextAdapter

logger = logging.getLogger(__name__)
_PROGRESS = "_progress"  # key of a batch that the loader keeps for itself: worker, samples, batches
Progress = dict[int, tuple[int, int]]
"""Samples taken and batches made by each worker in an epoch."""


@dataclass(frozen=True)
class StreamSettings:
    """What decides a stream.

    Args:
        urls: The shards.
        batch_size: Pictures in a batch.
        epoch_batches: Batches of an epoch on each rank; ``None`` ends it with the shards.
        shuffle_buffer: Samples among which the next is drawn.
        augment: How pictures are changed.
        fast: Resize by torchvision; see ``fit_fast``.
        max_broken: Share of samples and of shards that may be broken.
        caption_key: Key of the text in ``json`` samples.
        seed: Seed of the run.
        rank: This process.
        ranks: Number of processes.
    """

    urls: tuple[str, ...]
    batch_size: int
    epoch_batches: int | None = None
    shuffle_buffer: int = 1000
    augment: Augment = "none"
    fast: bool = True
    max_broken: float = 0.01
    caption_key: str = "caption"
    seed: int = 0
    rank: int = 0
    ranks: int = 1


class ShardStream(IterableDataset[dict[str, Tensor]]):
    """Batches as ``PictureDataset`` makes them; ``index`` is a hash of the sample's name.

    Args:
        settings: What decides the stream.
        adapter: The network's image settings and tokenizer.
    """

    def __init__(self, settings: StreamSettings, adapter: ImageTextAdapter) -> None:
        self.settings = settings
        self.tally = Tally(len(settings.urls), settings.max_broken)
        self._adapter = adapter
        self.begin(0)

    def begin(self, epoch: int, progress: Progress | None = None, turn: int = 0) -> None:
        """Choose what the next iteration gives.

        Args:
            epoch: The epoch.
            progress: What each worker has done of it already.
            turn: The worker whose batch is next.
        """
        self._epoch, self._progress, self._turn = epoch, progress or {}, turn

    def __len__(self) -> int:
        if self.settings.epoch_batches is None:
            raise TypeError("the number of batches is not known; give epoch_size")
        return self.settings.epoch_batches

    @override
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        workers = 1 if info is None else info.num_workers
        # a loader asks its workers in turn, from the first on; after a resume another's turn has come
        worker = ((0 if info is None else info.id) + self._turn) % workers
        taken, made = self._progress.get(worker, (0, 0))
        samples = enumerate(itertools.islice(self._samples(worker, workers), taken, None), start=taken + 1)
        batches = self.settings.epoch_batches
        quota = math.inf if batches is None else len(range(worker, batches, workers))
        while made < quota:
            decoded: list[tuple[Sample, Tensor]] = []
            for number, sample in samples:
                taken = number
                try:
                    decoded.append(
                        (sample, make_pixels(sample.data, self._adapter.images, self.settings.fast))
                    )
                except ValueError as error:
                    self.tally.sample(sample.name, str(error))
                if len(decoded) == self.settings.batch_size:
                    break
            if not decoded:
                return
            made += 1
            yield {**self._batch(decoded), _PROGRESS: torch.tensor([worker, taken, made])}

    def _samples(self, worker: int, workers: int) -> Iterator[Sample]:
        """Samples of a worker; over and over where the epoch has a length of its own."""
        from webdataset.filters import shuffle

        settings = self.settings
        for turn in itertools.count():
            order = list(settings.urls)
            random.Random(f"{settings.seed} {self._epoch} {turn}").shuffle(order)
            urls = order[settings.rank :: settings.ranks][worker::workers]
            drawn = random.Random(f"{settings.seed} {self._epoch} {turn} {settings.rank} {worker}")
            samples = read_shards(urls, self.tally, settings.caption_key)
            found = False
            for sample in shuffle(settings.shuffle_buffer, rng=drawn)(samples):
                found = True
                yield sample
            if settings.epoch_batches is None:
                return
            if not found:
                raise ValueError(f"expected samples in {len(urls)} shards, found none: {', '.join(urls[:3])}")

    def _batch(self, decoded: list[tuple[Sample, Tensor]]) -> dict[str, Tensor]:
        settings, images = self.settings, self._adapter.images
        indices = [name_number(sample.name) for sample, _ in decoded]
        epochs = [self._epoch] * len(indices)
        pixels = torch.stack([pixels for _, pixels in decoded])
        pixels = augmented(pixels, settings.augment, settings.seed, epochs, indices, images.fill)
        counts = np.array([len(sample.texts) for sample, _ in decoded], np.int64)
        places = chance.below(chance.draw(settings.seed, epochs, indices, chance.CAPTION), counts)
        texts = [sample.texts[place] for (sample, _), place in zip(decoded, places.tolist(), strict=True)]
        return {
            "pixel_values": normalise(pixels, images),
            "input_ids": self._adapter.tokenize(texts),
            "label": torch.full((len(indices),), -1),
            "index": torch.tensor(indices, dtype=torch.int64),
        }


class ShardLoader(DataLoader[dict[str, Tensor]]):
    """Loads a ``ShardStream``; a checkpoint holds how far each worker is.

    Args:
        stream: The stream.
        epoch: Says which epoch comes; where it is not given, the loader counts.
        settings: Of ``DataLoader``.
    """

    def __init__(self, stream: ShardStream, epoch: Callable[[], int] | None = None, **settings: Any) -> None:
        super().__init__(stream, batch_size=None, **settings)
        self.stream = stream
        self._epoch_now = epoch
        self._epoch = 0
        self._ended = False
        self._state: list[tuple[Progress, int]] = [
            ({}, 0)
        ]  # after the last batch but one, and after the last
        self._resumed: tuple[int, Progress, int] | None = None
        self._loaded = False

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base names a private class
        epoch = self._epoch + self._ended
        if self._epoch_now is not None:
            # Lightning begins the first epoch after a resume before it counts the one that had ended
            epoch = max(epoch, self._epoch_now()) if self._loaded else self._epoch_now()
        progress: Progress = {}
        turn = 0
        if self._resumed is not None and self._resumed[0] == epoch:
            _, progress, turn = self._resumed
        self._resumed, self._loaded, self._epoch, self._ended = None, False, epoch, False
        self._state = [(dict(progress), turn)]
        self.stream.begin(epoch, progress, turn)
        for batch in super().__iter__():
            worker, taken, made = batch.pop(_PROGRESS).tolist()
            progress = {**progress, worker: (taken, made)}
            turn = (worker + 1) % max(1, self.num_workers)
            self._state = [self._state[-1], (progress, turn)]
            yield batch
        self._ended = True

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and how far each worker is."""
        # Lightning asks a loader without a length for one batch more than it has trained on
        ahead = self.stream.settings.epoch_batches is None and not self._ended
        progress, turn = self._state[0] if ahead else self._state[-1]
        return {
            "epoch": self._epoch,
            "ended": self._ended,
            "progress": progress,
            "turn": turn,
            "workers": self.num_workers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was made; with another number of workers, from the epoch's beginning."""
        self._epoch, self._ended, self._loaded = state["epoch"], state["ended"], True
        if state["workers"] != self.num_workers:
            logger.warning(
                "the checkpoint was made with %d workers, now there are %d: epoch %d begins again",
                *(state["workers"], self.num_workers, state["epoch"]),
            )
            return
        progress = {int(worker): (done[0], done[1]) for worker, done in state["progress"].items()}
        self._resumed = (state["epoch"], progress, state["turn"])


def name_number(name: str) -> int:
    """A number below 2**63 that stands for a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1
