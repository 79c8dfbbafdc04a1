"""Batches of standardised features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import FeatureDataModule

ROWS = 900


@pytest.fixture
def table(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    cause = random.normal(size=(ROWS, 2))
    values = np.concatenate(
        [cause[:, :1] + 0.3 * random.normal(size=(ROWS, 5)), random.normal(size=(ROWS, 4))], axis=1
    )
    np.savez(tmp_path / "t.npz", tied=values[:, :5].astype(np.float32), free=values[:, 5:].astype(np.float32))
    return tmp_path / "t.npz"


def _module(table: Path, **settings: Any) -> FeatureDataModule:
    settings = {"categories": "source", "batch_size": 64, "cache_dir": str(table.parent / "cache")} | settings
    found = FeatureDataModule(str(table), **settings)
    found.prepare_data()
    found.setup("fit")
    return found


def test_splits_have_every_row_once(table: Path) -> None:
    data = _module(table)
    parts = [torch.cat([batch["features"] for batch in loader]) for loader in (  # type: ignore[index]
        data.val_dataloader(), data.test_dataloader())]  # fmt: skip
    train = data.rows("train")
    assert len(train) + sum(map(len, parts)) == ROWS
    everything = torch.cat([batch["features"] for batch in data.predict_dataloader()])  # type: ignore[index]
    assert len(everything) == ROWS
    assert len(torch.unique(torch.cat([train.__getitems__(range(len(train))), *parts]), dim=0)) == ROWS


def test_train_batches_are_full_standardised_and_of_another_order_each_epoch(table: Path) -> None:
    data = _module(table)
    loader = data.train_dataloader()
    first = [batch["features"] for batch in loader]
    assert {len(batch) for batch in first} == {64}
    together = torch.cat(first)
    assert together.mean().abs() < 0.1
    assert together.std() == pytest.approx(1, abs=0.1)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert not torch.equal(next(iter(loader))["features"], first[0])


def test_what_was_found_is_used_again(table: Path) -> None:
    data = _module(table)
    data.preparation.write(table.parent / "run" / "preparation.json")
    np.savez(table.parent / "new.npz", tied=np.full((3, 5), 2.0), free=np.zeros((3, 4)))
    again = _module(table.parent / "new.npz", preparation=str(table.parent / "run"))
    assert again.preparation.mean == data.preparation.mean
    (batch,) = again.predict_dataloader()
    expected = (2 - np.array(data.preparation.mean[:5])) / np.array(data.preparation.scale[:5])
    np.testing.assert_allclose(batch["features"][0, :5], expected, rtol=1e-5)  # type: ignore[index]


def test_a_category_that_was_never_seen_is_refused_at_inference(table: Path) -> None:
    data = _module(table)
    data.preparation.write(table.parent / "preparation.json")
    with pytest.raises(ValueError, match="category 'colour' was never seen"):
        _module(table, preparation=str(table.parent / "preparation.json"), categories={"colour": "tied.*"})


def test_a_changed_table_is_read_anew(table: Path) -> None:
    before = _module(table).preparation
    np.savez(table, tied=np.random.default_rng(5).normal(5, 1, (ROWS, 5)), free=np.zeros((ROWS, 1)))
    assert _module(table).preparation.mean != before.mean


def test_a_table_of_constants_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", a=np.ones((50, 3)))
    with pytest.raises(ValueError, match="t.npz: no usable feature is left of 3: 3 constant"):
        _module(tmp_path / "t.npz")


def test_a_missing_table_and_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such table"):
        FeatureDataModule("gone.npz", data_dir=str(tmp_path)).prepare_data()
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        FeatureDataModule("x.csv", batch_size=0)
    with pytest.raises(FileNotFoundError, match="expected what a fit has stored"):
        FeatureDataModule("x.csv", preparation=str(tmp_path))
