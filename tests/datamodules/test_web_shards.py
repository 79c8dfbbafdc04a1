"""WebShardsDataModule: streamed training, held splits, broken samples and shards cut short."""

import io
import json
import logging
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor

from datamodules import WebShardsDataModule
from datamodules.images.shard_stream import name_number

Files = list[tuple[str, bytes]]
SHARDS, SAMPLES = 5, 6


@pytest.fixture
def sample(photo: Callable[..., Image.Image], encoded: Callable[..., bytes]) -> Callable[..., Files]:
    """Makes a sample: files of a picture and its text; the same keys come in every shard."""

    def make(shard: int, number: int, picture: str = "jpg", text: str = "txt") -> Files:
        caption = f"picture {number} of shard {shard}"
        kind = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[picture]
        content = (
            caption if text == "txt" else json.dumps({"caption": caption, "several": [caption, "other"]})
        )
        key = f"{number:06d}"
        return [
            (f"{key}.{picture}", encoded(photo(10 * shard + number), kind)),
            (f"{key}.{text}", content.encode()),
        ]

    return make


def write(path: Path, samples: Sequence[Files]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for files in samples:
            for name, data in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def folder(sample: Callable[..., Files], tmp_path: Path) -> Path:
    """Five train shards of six samples and one validation shard of four."""
    for shard in range(SHARDS):
        write(
            tmp_path / "shards" / f"train-{shard:03d}.tar",
            [sample(shard, number) for number in range(SAMPLES)],
        )
    write(tmp_path / "shards" / "val-000.tar", [sample(9, number) for number in range(4)])
    return tmp_path / "shards"


def data_of(folder: Path, adapter: Any = None, **settings: Any) -> WebShardsDataModule:
    given = {
        "train": "train-{000..004}.tar", "validation": "val-*.tar", "data_dir": str(folder), "batch_size": 4,
        "shuffle_buffer": 5,
    }  # fmt: skip
    data = WebShardsDataModule(**{**given, **settings})
    if adapter is not None:
        data.use_adapter(adapter)
    return data


def indices_of(batches: Sequence[dict[str, Tensor]]) -> list[int]:
    return torch.cat([batch["index"] for batch in batches]).tolist()


def numbers(shards: Sequence[int] = range(SHARDS), samples: Sequence[int] = range(SAMPLES)) -> set[int]:
    return {name_number(f"train-{shard:03d}.tar/{number:06d}") for shard in shards for number in samples}


def equal(one: Sequence[dict[str, Tensor]], other: Sequence[dict[str, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_streams_every_sample_once_in_a_new_order(
    workers: int, folder: Path, adapter: Callable[..., Any]
) -> None:
    loader = data_of(folder, adapter(), num_workers=workers, augment="crop_flip").train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    for batches in epochs:
        assert len(indices_of(batches)) == SHARDS * SAMPLES
        assert set(indices_of(batches)) == numbers()
        assert batches[0]["pixel_values"].shape == (4, 3, 16, 16)
        assert batches[0]["label"].tolist() == [-1] * 4
        assert batches[0].keys() == {"pixel_values", "input_ids", "label", "index"}
    assert indices_of(epochs[0]) != indices_of(epochs[1])
    again = data_of(folder, adapter(), num_workers=workers, augment="crop_flip").train_dataloader()
    assert equal(list(again), epochs[0])


def test_a_picture_goes_with_its_text(folder: Path, adapter: Callable[..., Any]) -> None:
    words = adapter()
    data = data_of(folder, words, fast_resize=False)
    texts = {
        name_number(name): (caption[0], index)
        for index, (name, caption) in enumerate(
            zip(data.split("train").names, data.split("train").captions, strict=True)
        )
    }
    for batch in data.train_dataloader():
        for place, number in enumerate(batch["index"].tolist()):
            caption, index = texts[number]
            row = batch["input_ids"][place]
            assert row[row != 0].tolist() == words.tokenize([caption])[0].tolist()
            assert torch.equal(batch["pixel_values"][place], data.split("train").pixels([index])[0])


@pytest.mark.parametrize("picture", ["jpg", "jpeg", "png", "webp"])
@pytest.mark.parametrize("text", ["txt", "json"])
def test_pictures_and_texts_come_under_the_usual_keys(
    picture: str, text: str, sample: Callable[..., Files], tmp_path: Path
) -> None:
    write(tmp_path / "a" / "v.tar", [sample(0, number, picture, text) for number in range(3)])
    split = WebShardsDataModule(validation="v.tar", data_dir=str(tmp_path / "a")).split("validation")
    assert list(split.names) == [f"v.tar/{number:06d}" for number in range(3)]
    assert split.captions == [[f"picture {number} of shard 0"] for number in range(3)]
    assert split.description == "3 validation pictures of 1 shards, v.tar"


def test_several_texts_may_stand_under_another_key(sample: Callable[..., Files], tmp_path: Path) -> None:
    write(tmp_path / "a" / "v.tar", [sample(0, 1, "jpg", "json")])
    data = WebShardsDataModule(validation="v.tar", data_dir=str(tmp_path / "a"), caption_key="several")
    assert data.split("validation").captions == [["picture 1 of shard 0", "other"]]


def test_held_splits_are_limited_and_calibration_reads_the_first_train_samples(
    folder: Path, adapter: Callable[..., Any]
) -> None:
    data = data_of(folder, adapter(), held_images=3, kept_train=8, calibration_images=5)
    assert list(data.evaluation().names) == [f"val-000.tar/{number:06d}" for number in range(3)]
    assert data.evaluation().description == "first 3 validation pictures of 1 shards, val-000.tar"
    assert len(list(data.val_dataloader())) == 1
    assert data.calibration_rows(4)[:, 0].tolist() == [0, 2, 4, 6]
    assert [len(batch["tokens"]) for batch in data.calibration_batches()] == [4, 1]


def test_without_validation_shards_some_of_train_are_held_out(
    folder: Path, adapter: Callable[..., Any]
) -> None:
    data = data_of(folder, adapter(), validation=None, validation_share=0.4)
    held = {name.partition("/")[0] for name in data.split("validation").names}
    assert len(held) == 2  # of five
    streamed = set(indices_of(list(data.train_dataloader())))
    assert streamed.isdisjoint(name_number(name) for name in data.split("validation").names)
    assert len(streamed) == 3 * SAMPLES
    assert not data.has_split("test")
    one = data_of(folder, adapter(), train="train-000.tar", validation=None)
    with pytest.raises(
        ValueError, match=r"train-000\.tar: expected validation shards, or a second train shard"
    ):
        one.split("train")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_its_own_length_goes_round(
    workers: int, folder: Path, adapter: Callable[..., Any]
) -> None:
    loader = data_of(folder, adapter(), num_workers=workers, epoch_size=50).train_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches) == 12  # 50 // 4
    assert [len(batch["index"]) for batch in batches] == [4] * 12
    short = data_of(folder, adapter(), num_workers=workers, epoch_size=9).train_dataloader()
    assert len(list(short)) == 2


# another order of workers, and a state at the end of an epoch
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("seen", [1, 2, 5])
def test_a_loader_goes_on_after_its_state(
    workers: int, seen: int, folder: Path, adapter: Callable[..., Any]
) -> None:
    settings: dict[str, Any] = {"num_workers": workers, "epoch_size": 40, "augment": "flip"}
    whole = list(data_of(folder, adapter(), **settings).train_dataloader())
    loader = data_of(folder, adapter(), **settings).train_dataloader()
    batches = iter(loader)
    for _ in range(seen):
        next(batches)
    state = loader.state_dict()
    rest = data_of(folder, adapter(), **settings).train_dataloader()
    rest.load_state_dict(state)
    assert equal(list(rest), whole[seen:])


def test_a_loader_with_other_workers_begins_the_epoch_again(
    folder: Path, adapter: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    loader = data_of(folder, adapter()).train_dataloader()
    next(iter(loader))
    other = data_of(folder, adapter(), num_workers=2).train_dataloader()
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(loader.state_dict())
    assert "made with 0 workers, now there are 2: epoch 0 begins again" in caplog.text
    assert set(indices_of(list(other))) == numbers()


class Recorder(LightningModule):
    """Sees batches."""

    def __init__(self, adapter: Any) -> None:
        super().__init__()
        self.adapter = adapter
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch["index"].tolist())
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    "epoch_size", [None, 32]
)  # both: 8 batches; Lightning asks for one ahead if it is not told
@pytest.mark.parametrize("step", [3, 8, 12])  # within the first epoch, at its end, within the second
def test_a_fit_repeats_no_batch(
    epoch_size: int | None, step: int, folder: Path, adapter: Callable[..., Any], tmp_path: Path
) -> None:
    def fit(name: str, checkpoint: Path | None = None) -> list[list[int]]:
        module = Recorder(adapter())
        saving = ModelCheckpoint(
            dirpath=tmp_path / name, every_n_train_steps=1, save_top_k=-1, filename="{step}"
        )
        trainer = Trainer(
            accelerator="cpu", max_epochs=2, logger=False, callbacks=[saving], enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        )  # fmt: skip
        data = data_of(folder, epoch_size=epoch_size)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint), weights_only=False)
        return module.seen

    whole = fit("whole")
    assert len(whole) == 16
    assert fit("rest", tmp_path / "whole" / f"step={step}.ckpt") == whole[step:]


def test_broken_samples_are_named_and_left_out(
    folder: Path, sample: Callable[..., Files], adapter: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    good = [sample(0, number) for number in range(SAMPLES)]
    good[1] = good[1][:1]  # no text
    good[3] = good[3][1:]  # no picture
    good[4][0] = ("000004.jpg", good[4][0][1][:200])
    write(folder / "train-000.tar", good)
    data = data_of(
        folder, adapter(), max_broken=0.01
    )  # of samples yet unseen a thousand are taken: ten may be broken
    loader = data.train_dataloader()
    with caplog.at_level(logging.WARNING):
        seen = set(indices_of(list(loader)))
    assert seen == numbers() - numbers([0], [1, 3, 4])
    assert loader.stream.tally.broken.keys() == {f"train-000.tar/{number:06d}" for number in (1, 3, 4)}  # type: ignore[attr-defined]
    for text in ("000001 is left out: expected a text", "000003 is left out: expected a picture (jpg, "):
        assert text in caplog.text
    strict = data_of(folder, adapter(), max_broken=0.002)
    with pytest.raises(ValueError, match=r"3 of \d+ samples broken: train-000\.tar/00000.*a share of 0\.002"):
        list(strict.train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_cut_short_gives_what_it_has(
    workers: int, folder: Path, adapter: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "train-002.tar"
    with tarfile.open(path) as archive:
        end = archive.getmember("000003.jpg").offset_data + 100
    path.write_bytes(path.read_bytes()[:end])
    loader = data_of(folder, adapter(), max_broken=0.2, num_workers=workers).train_dataloader()
    with caplog.at_level(logging.WARNING):
        seen = set(indices_of(list(loader)))
    assert seen == numbers() - numbers([2], [3, 4, 5])
    if workers:
        return  # they warn in processes of their own, and torch waits for each when one raises
    assert "train-002.tar: the rest of this shard is left out: unexpected end of data" in caplog.text
    strict = data_of(folder, adapter(), max_broken=0.19)
    with pytest.raises(
        ValueError, match=r"1 of 5 shards broken: .*train-002\.tar \(unexpected end of data\)"
    ):
        list(strict.train_dataloader())


def test_a_validation_picture_that_cannot_be_decoded_is_left_out(
    folder: Path, sample: Callable[..., Files]
) -> None:
    samples = [sample(9, number) for number in range(4)]
    samples[2][0] = ("000002.jpg", b"<html>")
    write(folder / "val-000.tar", samples)
    assert len(data_of(folder, max_broken=0.25).split("validation")) == 3
    with pytest.raises(ValueError, match=r"1 of 4 pictures broken or missing: val-000\.tar/000002"):
        data_of(folder, max_broken=0.24).split("validation")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "train-{000..009}.tar"}, r"train-005\.tar: no such shard"),
        ({"train": "other-*.tar"}, r"other-\*\.tar: no such shard"),
        ({"epoch_size": 0}, "epoch_size must be at least 1"),
        ({"sampler": "balanced"}, "sampler must be shuffle for shards, .*; got balanced"),
        ({"limit_train": 5}, "limit_train does not go with shards"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data_of(folder, **settings).split("train")


def test_a_shard_of_other_files_says_so(folder: Path) -> None:
    write(folder / "val-000.tar", [[("notes.md", b"none")]])
    with pytest.raises(ValueError, match="expected pictures in 1 shards, found none"):
        data_of(folder).split("validation")
