"""Under Lightning with two processes each train picture is seen by one of them, and all are seen."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import io, json, sys, tarfile
from pathlib import Path

sys.path[:0] = [sys.argv[1], sys.argv[2]]
import torch
from lightning.pytorch import LightningModule, Trainer

from conftest import WordAdapter
from datamodules import ShapesDataModule, WebShardsDataModule
from fulgurite.models.adapter import ImageSettings

folder = Path(sys.argv[3])


class Recorder(LightningModule):
    def __init__(self, name):
        super().__init__()
        self.adapter = WordAdapter(ImageSettings(size=(8, 8)))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.name, self.seen, self.evaluated = name, [], []

    def training_step(self, batch, batch_idx):
        lengths = (batch["input_ids"] != 0).sum(1).tolist()
        self.seen.append([self.current_epoch, batch["index"].tolist(), lengths])
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.evaluated += batch["index"].tolist()

    def on_fit_end(self):
        backend = torch.distributed.get_backend()
        content = {"train": self.seen, "validation": self.evaluated, "backend": backend}
        (folder / f"{self.name}-{self.global_rank}.json").write_text(json.dumps(content))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    settings = {"batch_size": 4, "augment": "flip"}
    shapes = {"train": 48, "validation": 8, "test": 2, "side": 16, **settings}
    pictures = ShapesDataModule(**shapes).split("train")
    for shard in range(4):
        with tarfile.open(folder / f"t-{shard}.tar", "w") as archive:
            for number in range(6):
                picture = pictures.table.store.open(pictures.names[6 * shard + number])
                for ending, data in (("png", picture), ("txt", b"a text")):
                    entry = tarfile.TarInfo(f"{number}.{ending}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    for name, data in (
        ("shuffle", ShapesDataModule(**shapes)),
        ("bucketed", ShapesDataModule(**shapes, sampler="bucketed", num_workers=1)),
        ("stream", WebShardsDataModule("t-{0..3}.tar", "t-0.tar", data_dir=str(folder), epoch_size=24, **settings)),
    ):
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )
        trainer.fit(Recorder(name), datamodule=data)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each of the two processes saw, by name of the run."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "fit.py").write_text(SCRIPT)
    tests = Path(__file__).parent
    subprocess.run(
        [sys.executable, str(folder / "fit.py"), str(tests), str(tests.parents[1]), str(folder)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    names = ("shuffle", "bucketed", "stream")
    return {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]
        for name in names
    }


def indices(record: dict[str, Any], epoch: int) -> list[int]:
    return [index for at, batch, _ in record["train"] if at == epoch for index in batch]


@pytest.mark.parametrize(("name", "count"), [("shuffle", 48), ("bucketed", 48), ("stream", 24)])
def test_two_processes_share_out_each_epoch(
    name: str, count: int, seen: dict[str, list[dict[str, Any]]]
) -> None:
    orders = []
    for epoch in (0, 1):
        one, two = (indices(record, epoch) for record in seen[name])
        assert len(one) == len(two) == count // 2
        assert len({*one, *two}) == count, "no picture twice, none left out"
        orders.append(one)
    assert orders[0] != orders[1]
    assert [record["backend"] for record in seen[name]] == ["gloo", "gloo"]


def test_batches_of_both_processes_have_captions_of_like_length(
    seen: dict[str, list[dict[str, Any]]],
) -> None:
    def mixed(name: str) -> int:
        return sum(max(lengths) > min(lengths) for record in seen[name] for _, _, lengths in record["train"])

    # 24 batches on the two of them in two epochs; six lengths occur, each border lies in at most one step
    assert mixed("bucketed") <= 2 * 2 * 5 < 24
    assert mixed("bucketed") < mixed("shuffle")


def test_validation_is_shared_out_by_lightning(seen: dict[str, list[dict[str, Any]]]) -> None:
    one, two = (set(record["validation"]) for record in seen["shuffle"])
    assert one | two == set(range(8))
    assert not one & two
