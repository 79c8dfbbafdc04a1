"""Recorded gradients for an ``EntropyPredictor``: layers and steps that it has not seen are kept to judge it by."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from fulgurite.gradients.records import GradientRecords

HELD_OUT = ("unseen layers", "unseen steps")
"""What the test loaders hold, in their order."""


class GradientRecordsDataModule(LightningDataModule):
    """Rows ``statistics [b, 6], bits [b]`` of files that ``callbacks.record_gradients.RecordGradients`` wrote.

    Args:
        files: Of one training or several.
        layer_share: Share of the layers that are kept to judge by.
        step_share: Share of the steps, the last ones, that are kept to judge by.
        batch_size: Rows in a batch.
        seed: Of the choice of layers and of the validation rows.

    Raises:
        ValueError: If a share is not in (0, 1).
    """

    def __init__(
        self,
        files: list[str],
        layer_share: float = 0.25,
        step_share: float = 0.25,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < layer_share < 1 or not 0 < step_share < 1:
            raise ValueError(
                f"layer_share and step_share must be in (0, 1), got {layer_share} and {step_share}"
            )
        self.files, self.layer_share, self.step_share = files, layer_share, step_share
        self.batch_size, self.seed = batch_size, seed
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}

    @override
    def setup(self, stage: str) -> None:
        if self._rows:
            return
        records = GradientRecords.joined([GradientRecords.load(path) for path in self.files])
        generator = torch.Generator().manual_seed(self.seed)
        hidden = max(1, round(self.layer_share * len(records.layers)))
        if hidden >= len(records.layers):
            raise ValueError(f"expected gradients of 2 layers at least, got {len(records.layers)}")
        chosen = torch.randperm(len(records.layers), generator=generator)[:hidden]
        other_layer = torch.isin(records.layer, chosen)
        steps = torch.unique(records.step)
        late = records.step >= steps[-max(1, round(self.step_share * len(steps)))]
        known = ~other_layer & ~late
        if int(known.sum()) < 10:
            raise ValueError(
                f"expected 10 rows at least of layers and steps to learn from, got {int(known.sum())} of {len(records)}"
            )
        of_known = known.nonzero()[:, 0]
        of_known = of_known[torch.randperm(len(of_known), generator=generator)]
        share = max(1, len(of_known) // 10)
        for name, rows in {
            "train": of_known[share:],
            "validation": of_known[:share],
            HELD_OUT[0]: (other_layer & ~late).nonzero()[:, 0],
            HELD_OUT[1]: (late & ~other_layer).nonzero()[:, 0],
        }.items():
            self._rows[name] = (records.statistics[rows], records.bits[rows])

    @property
    def train_statistics(self) -> Tensor:
        """Of all rows that are learnt from, ``[m, 6]``."""
        return self._rows["train"][0]

    def _loader(self, name: str, **settings: Any) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(*self._rows[name]), batch_size=self.batch_size, **settings)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader("train", shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader("validation")

    @override
    def test_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        return [self._loader(name) for name in HELD_OUT]
