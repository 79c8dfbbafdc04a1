"""Tables of features for a LightningModule: cleaned and put into categories once, then read a batch at a time.

table -> prepare (train rows) -> Preparation, kept -> every row standardised -> file on disk, mapped -> batches

A pass over the table holds one block of rows, and an epoch one batch: what is in memory does not grow with the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from datamodules.loader import EpochSampler, ResumableDataLoader
from fulgurite.features.cleaning import CleaningSettings
from fulgurite.features.preparation import Preparation, Split, prepare
from fulgurite.features.tables import SKLEARN, ChosenColumns, Table, open_table

SPLITS = ("train", "validation", "test")
_PREPARATION = "preparation.json"
_ROWS, _PARTS = "rows.f32", "parts.npy"


class FeatureRows(Dataset[Tensor]):
    """Rows of one split in a file that is mapped, not read.

    Args:
        path: Floats of 32 bits, ``[all rows, features]``.
        rows: Which of them.
        features: Number of columns.
    """

    def __init__(self, path: Path, rows: NDArray[np.int64], features: int) -> None:
        self._path = path
        self._rows = rows
        self._features = features
        self._values: Any = None

    def __len__(self) -> int:
        return len(self._rows)

    @override
    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """Several rows at once, as loaders ask for them, ``[indices, features]``."""
        if self._values is None:  # opened where it is read: workers do not share it
            self._values = np.memmap(self._path, np.float32, "r").reshape(-1, self._features)
        return torch.from_numpy(np.ascontiguousarray(self._values[self._rows[np.asarray(indices)]]))


def _collate(rows: Any) -> dict[str, Tensor]:
    return {"features": rows}


class FeatureDataModule(LightningDataModule):
    """Rows of a table as batches of standardised features.

    Args:
        table: ``.parquet``, ``.csv``, ``.npz`` or ``.safetensors`` file, ``FILE#TENSOR`` for the rows of one tensor,
            such as a weight of a network, or ``sklearn:NAME``.
        data_dir: Folder that a relative path starts from.
        columns: Glob patterns over columns; all by default.
        categories: ``auto`` or a number: clusters by correlation; ``source``: by the tensor that a column is of; or
            names with glob patterns over columns.
        smallest_category: Features that a cluster has at least.
        validation_share: Of the rows.
        test_share: Of the rows.
        cleaning: What is taken out.
        preparation: What an earlier run has stored, a file or a run's folder: nothing is learned anew.
        batch_size: Rows a step.
        num_workers: Processes that read.
        seed: Of the split, the sample and the order.
        cache_dir: Folder for the standardised rows, by default ``.cache/features``.

    Raises:
        ValueError: If a setting is out of range, no usable feature is left, or a category was never seen.
        FileNotFoundError: If there is no such table.
    """

    def __init__(
        self,
        table: str,
        data_dir: str | None = None,
        columns: list[str] | None = None,
        categories: dict[str, list[str] | str] | int | str = "auto",
        smallest_category: int = 4,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        cleaning: CleaningSettings = CleaningSettings(),  # noqa: B008  (frozen)
        preparation: str | None = None,
        batch_size: int = 1024,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("smallest_category", smallest_category)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.table = table
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.columns = columns
        self.categories = categories
        self.smallest_category = smallest_category
        self.split = Split(validation_share, test_share, seed)
        self.cleaning = cleaning
        self._given = None if preparation is None else _read_preparation(Path(preparation))
        if self._given is not None and isinstance(categories, dict):
            self._given.check_categories(list(categories))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._cache = Path(cache_dir or ".cache/features")
        self._folder: Path | None = None
        self._preparation: Preparation | None = self._given
        self._rows: dict[str, FeatureRows] = {}

    @property
    def preparation(self) -> Preparation:
        """What was learned of the table; there after ``prepare_data``."""
        if self._preparation is None:
            self._preparation = Preparation.read(self._place() / _PREPARATION)
        return self._preparation

    def use_preparation(self, known: Preparation) -> None:
        """Treat rows as those that a network was trained on; nothing is learned of this table.

        Raises:
            ValueError: If categories were asked for that are not there.
        """
        if isinstance(self.categories, dict):
            known.check_categories(list(self.categories))
        self._given = self._preparation = known
        self._folder = None

    @override
    def prepare_data(self) -> None:
        folder = self._place()
        if (folder / _PREPARATION).is_file():
            return
        table = open_table(self.table, self.data_dir)
        if self.columns is not None:
            table = ChosenColumns(table, self.columns)
        learned = self._given or prepare(
            table,
            cleaning=self.cleaning,
            categories=self.categories,
            smallest=self.smallest_category,
            split=self.split,
        )
        folder.mkdir(parents=True, exist_ok=True)
        _write_rows(table, learned, folder, self.split)
        learned.write(folder / _PREPARATION)  # last: it says that the rows are whole

    @override
    def setup(self, stage: str | None = None) -> None:
        folder = self._place()
        if not (folder / _PREPARATION).is_file():
            self.prepare_data()
        self._preparation = Preparation.read(folder / _PREPARATION)
        parts = np.load(folder / _PARTS)
        chosen = {name: np.flatnonzero(parts == number) for number, name in enumerate(SPLITS)}
        chosen["all"] = np.arange(len(parts))
        width = len(self._preparation.kept)
        self._rows = {name: FeatureRows(folder / _ROWS, rows, width) for name, rows in chosen.items()}

    def rows(self, split: str) -> FeatureRows:
        """Rows of ``train``, ``validation``, ``test`` or ``all``."""
        if split not in self._rows:
            self.setup()
        return self._rows[split]

    def sample(self, split: str, count: int, seed: int = 0) -> Tensor:
        """Some rows of a split in random order, ``[count or fewer, features]``."""
        rows = self.rows(split)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(rows), generator=generator)[:count]
        return rows.__getitems__(chosen.tolist())

    @override
    def train_dataloader(self) -> ResumableDataLoader:
        rows = self.rows("train")
        return ResumableDataLoader(
            rows,  # type: ignore[arg-type]  # collated to a dictionary
            batch_size=min(self.batch_size, len(rows)),
            sampler=EpochSampler(rows, self.seed),
            num_workers=self.num_workers,
            collate_fn=_collate,
            drop_last=True,  # a few rows left over would decide which codes die
        )

    @override
    def val_dataloader(self) -> DataLoader[Tensor]:
        return self._in_order("validation")

    @override
    def test_dataloader(self) -> DataLoader[Tensor]:
        return self._in_order("test")

    @override
    def predict_dataloader(self) -> DataLoader[Tensor]:
        return self._in_order("all")

    def _in_order(self, split: str) -> DataLoader[Tensor]:
        return DataLoader(
            self.rows(split), batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=_collate
        )

    def _place(self) -> Path:
        """Folder of this table under these settings; another table at the same path has another."""
        if self._folder is None:
            described: dict[str, Any] = {
                "table": self.table,
                "data_dir": str(self.data_dir),
                "columns": self.columns,
            }
            if not self.table.startswith(SKLEARN):
                path = (self.data_dir or Path()) / self.table.partition("#")[0]
                if not path.is_file():
                    raise FileNotFoundError(f"{path}: no such table")
                status = path.stat()
                described |= {"size": status.st_size, "time": status.st_mtime_ns}
            if self._given is None:
                described |= {
                    "categories": self.categories,
                    "smallest": self.smallest_category,
                    "cleaning": asdict(self.cleaning),
                }
            else:
                described["given"] = self._given.to_dict()
            described["split"] = asdict(self.split)
            digest = hashlib.sha256(json.dumps(described, sort_keys=False).encode()).hexdigest()
            self._folder = self._cache / digest[:24]
        return self._folder


def _read_preparation(path: Path) -> Preparation:
    if path.is_dir():
        path = path / _PREPARATION
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected what a fit has stored of its table, found nothing")
    return Preparation.read(path)


def _write_rows(table: Table, learned: Preparation, folder: Path, split: Split) -> None:
    """All rows, standardised, and the split that each belongs to; whole or not at all."""
    drafted = folder / f"{_ROWS}.{os.getpid()}"
    parts: list[NDArray[np.int8]] = []
    start = 0
    try:
        with drafted.open("wb") as file:
            for block in table.blocks():
                file.write(learned.apply(block, table.columns).tobytes())
                parts.append(split.of(start, len(block)))
                start += len(block)
        drafted.replace(folder / _ROWS)
        np.save(folder / _PARTS, np.concatenate(parts) if parts else np.zeros(0, np.int8))
    finally:
        drafted.unlink(missing_ok=True)
