"""What all image-text data modules do: batches, calibration, orders, workers, and going on after an interruption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules import ShapesDataModule
from fulgurite.evaluation.image_split import ImageSplit


def data_of(adapter: Any = None, **settings: Any) -> ShapesDataModule:
    data = ShapesDataModule(
        **{"train": 50, "validation": 10, "test": 6, "side": 24, "batch_size": 8, **settings}
    )
    if adapter is not None:
        data.use_adapter(adapter)
    return data


def batches_of(loader: Any, epoch: int | None = None) -> list[dict[str, Tensor]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return list(loader)


def equal(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_a_train_batch_has_pixels_tokens_labels_and_indices(adapter: Callable[..., Any]) -> None:
    words = adapter()
    data = data_of(words)
    batches = batches_of(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [8] * 6 + [2]
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(50))
    split = data.split("train")
    assert split.labels is not None
    seen = set()
    for batch in batches:
        kinds = {name: (values.dtype, values.shape[1:]) for name, values in batch.items()}
        assert kinds["pixel_values"] == (torch.float32, (3, 16, 16))
        assert kinds["label"] == kinds["index"] == (torch.int64, ())
        assert kinds["input_ids"][0] == torch.int64
        assert torch.equal(batch["pixel_values"], split.pixels(batch["index"].tolist()))  # augment: none
        assert batch["label"].tolist() == split.labels[batch["index"]].tolist()
        for index, row in zip(batch["index"].tolist(), batch["input_ids"], strict=True):
            options = [words.tokenize([caption])[0].tolist() for caption in split.captions[index]]
            seen.add(options.index(row[row != 0].tolist()))
    assert seen == {0, 1}, "both captions are drawn"


def test_evaluation_batches_have_the_first_caption_in_the_order_of_the_file(
    adapter: Callable[..., Any],
) -> None:
    words = adapter()
    data = data_of(words, augment="trivial", sampler="balanced")
    for loader, name in ((data.val_dataloader(), "validation"), (data.test_dataloader(), "test")):
        split = data.split(name)
        batches = batches_of(loader)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(len(split)))
        assert torch.equal(
            torch.cat([batch["pixel_values"] for batch in batches]), split.pixels(range(len(split)))
        )
        first = [each[0] for each in split.captions]
        assert torch.equal(batches[0]["input_ids"], words.tokenize(first[:8]))
    assert data.predict_split == "test"
    assert equal(batches_of(data.predict_dataloader()), batches_of(data.test_dataloader()))


@pytest.mark.parametrize("augment", ["none", "crop_flip", "trivial"])
def test_an_epoch_is_a_function_of_seed_and_epoch_whatever_makes_it(
    augment: Any, adapter: Callable[..., Any]
) -> None:
    first = batches_of(data_of(adapter(), augment=augment).train_dataloader(), epoch=2)
    assert equal(batches_of(data_of(adapter(), augment=augment, cache_mb=0).train_dataloader(), 2), first)
    assert not equal(batches_of(data_of(adapter(), augment=augment).train_dataloader(), 3), first)
    assert not equal(batches_of(data_of(adapter(), augment=augment, seed=1).train_dataloader(), 2), first)
    loader = data_of(adapter(), augment=augment, num_workers=2).train_dataloader()
    assert loader.persistent_workers
    batches_of(loader, 0)  # the workers stay, and have to be told the epoch
    assert equal(batches_of(loader, 2), first)


def test_loaders_draw_nothing_from_the_global_generator(adapter: Callable[..., Any]) -> None:
    data = data_of(adapter(), augment="trivial")
    state = torch.get_rng_state()
    batches_of(data.train_dataloader())
    batches_of(data.val_dataloader())
    list(data.calibration_batches())
    assert torch.equal(torch.get_rng_state(), state)


def test_calibration_rows_are_evenly_spaced_with_one_caption_each(adapter: Callable[..., Any]) -> None:
    words = adapter()
    data = data_of(words, augment="crop_flip")
    rows = data.calibration_rows(10)
    assert rows.dtype == torch.int64
    assert rows[:, 0].tolist() == list(range(0, 50, 5))
    assert torch.equal(data_of(words).calibration_rows(10), rows)
    captions = data.split("train").captions
    places = []
    for row in rows:
        options = [words.tokenize([text])[0].tolist() for text in captions[row[0]]]
        places.append(options.index(row[1:][row[1:] != 0].tolist()))
    assert set(places) == {0, 1}
    assert len(data.calibration_rows(None)) == len(data.calibration_rows(999)) == 50
    batch = data.row_batch(rows[:3])
    assert batch.keys() == {"pixels", "tokens"}, "as the adapter names them"
    assert torch.equal(batch["pixels"], data.split("train").pixels([0, 5, 10])), "not augmented"
    assert torch.equal(batch["tokens"], rows[:3, 1:])


def test_calibration_batches_are_those_rows(adapter: Callable[..., Any]) -> None:
    data = data_of(adapter(), calibration_images=20)
    batches = list(data.calibration_batches())
    assert [len(batch["tokens"]) for batch in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([batch["tokens"] for batch in batches]), data.calibration_rows(20)[:, 1:])
    assert equal(list(data.calibration_batches()), batches)


def test_tokens_have_the_width_that_the_network_wants(adapter: Callable[..., Any]) -> None:
    data = data_of(adapter(width=20))
    assert {batch["input_ids"].shape[1] for batch in batches_of(data.train_dataloader())} == {20}
    assert data.calibration_rows(3).shape == (3, 21)


def test_a_split_has_names_and_texts_before_there_is_a_network(adapter: Callable[..., Any]) -> None:
    data = data_of()
    split = data.split("train")
    assert isinstance(split, ImageSplit)
    assert len(split.captions) == 50
    with pytest.raises(ValueError, match="there is no adapter: .*call use_adapter"):
        split.pixels([0])
    data.use_adapter(adapter())
    assert split.pixels([0]).shape == (1, 3, 16, 16)
    assert split.pixels([]).shape == (0, 3, 16, 16)


def test_another_network_gets_pixels_and_tokens_of_its_own(adapter: Callable[..., Any]) -> None:
    data = data_of(adapter())
    data.split("train").pixels(range(50))
    rows = data.calibration_rows(4)
    assert (data.cache.misses, data.cache.bytes) == (50, 50 * 3 * 16 * 16)
    data.use_adapter(adapter(width=20))  # the same pictures
    assert data.calibration_rows(4).shape[1] == 21 != rows.shape[1]
    data.split("train").pixels(range(50))
    assert (data.cache.hits, data.cache.misses) == (50, 50)
    data.use_adapter(adapter(size=(8, 12)))
    assert data.cache.bytes == 0
    assert data.split("train").pixels([0]).shape == (1, 3, 8, 12)


def test_limits_and_balance(adapter: Callable[..., Any]) -> None:
    data = data_of(adapter(), train=400, limit_train=72, sampler="balanced", batch_size=36)
    assert len(data.split("train")) == 72
    labels = torch.cat([batch["label"] for batch in batches_of(data.train_dataloader())])
    present = len(set(data.split("train").labels.tolist()))  # type: ignore[union-attr]
    counts = torch.bincount(labels)
    assert set(counts[counts > 0].tolist()) <= {72 // present, 72 // present + 1}


def test_bucketed_batches_have_captions_of_like_length(adapter: Callable[..., Any]) -> None:
    data = data_of(adapter(), train=400, sampler="bucketed")
    for epoch in (0, 1):
        widths = [
            (batch["input_ids"] != 0).sum(1)
            for batch in batches_of(data.train_dataloader(), epoch)
            if len(batch["index"]) == 8
        ]
        mixed = sum(int(each.max() > each.min()) for each in widths)
        # five lengths occur, so at most four batches lie on a border
        assert mixed <= 4 < len(widths)


class Recorder(LightningModule):
    """Sees batches, and stops where it is told."""

    def __init__(self, adapter: Any, stop_after: int | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_after = stop_after
        self.seen: list[dict[str, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append({name: values.clone() for name, values in batch.items()})
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(folder: Path, **settings: Any) -> Trainer:
    saving = ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    return Trainer(
        accelerator="cpu", max_epochs=2, logger=False, callbacks=[saving], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, **settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    "step", [3, 7, 10]
)  # within the first epoch, at its end (7 batches), within the second
def test_a_fit_goes_on_with_the_same_batches(step: int, adapter: Callable[..., Any], tmp_path: Path) -> None:
    settings = {"augment": "crop_flip", "sampler": "bucketed"}
    whole = Recorder(adapter())
    trainer_of(tmp_path / "whole").fit(whole, datamodule=data_of(**settings))
    assert len(whole.seen) == 14
    rest = Recorder(adapter())
    trainer_of(tmp_path / "rest").fit(
        rest,
        datamodule=data_of(**settings),
        ckpt_path=str(tmp_path / "whole" / f"step={step}.ckpt"),
        weights_only=False,
    )
    assert equal(rest.seen, whole.seen[step:])


def test_predict_gives_every_test_picture_in_order(adapter: Callable[..., Any], tmp_path: Path) -> None:
    class Names(Recorder):
        def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[int]:
            return batch["index"].tolist()

    data = data_of(test=11)
    batches = trainer_of(tmp_path).predict(Names(adapter()), datamodule=data)
    assert batches == [list(range(8)), [8, 9, 10]]


def test_the_network_of_a_trainer_brings_the_adapter(adapter: Callable[..., Any], tmp_path: Path) -> None:
    module = Recorder(adapter(size=(12, 12)))
    data = data_of()
    trainer_of(tmp_path, limit_train_batches=1).fit(module, datamodule=data)
    assert data.adapter is module.adapter
    assert module.seen[0]["pixel_values"].shape == (8, 3, 12, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"calibration_images": 0}, "calibration_images must be at least 1"),
        ({"limit_train": 0}, "limit_train must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"cache_mb": -1}, "cache_mb must be at least 0"),
        ({"max_broken": 1.1}, r"max_broken must be in \[0, 1\], got 1.1"),
        ({"validation_share": 1.0}, r"validation_share must be in \(0, 1\)"),
        ({"augment": "mixup"}, "augment must be one of none, flip, crop_flip, trivial, got 'mixup'"),
        ({"sampler": "sorted"}, "sampler must be one of shuffle, balanced, bucketed, got 'sorted'"),
        ({"check": "all"}, "check must be one of decode, header, exists, got 'all'"),
        ({"evaluation_split": "train"}, "evaluation_split must be one of validation, test"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_of(**settings)
