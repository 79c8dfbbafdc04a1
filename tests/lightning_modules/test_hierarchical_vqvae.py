"""A fit of codes by category: sizes from the data, health, learned ratios, and a resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from callbacks.codebook_health import CodebookHealth
from datamodules import FeatureDataModule
from fulgurite.vqvae.health import Health
from fulgurite.vqvae.quantiser import QuantiserSettings
from fulgurite.vqvae.storing import load_hierarchy
from lightning_modules import HierarchicalVqvae

SMALL = QuantiserSettings(codes=16)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    tied = random.normal(size=(600, 1)) + 0.2 * random.normal(size=(600, 8))
    np.savez(
        tmp_path / "t.npz", tied=tied.astype(np.float32), free=random.normal(size=(600, 4)).astype(np.float32)
    )
    return tmp_path / "t.npz"


def _data(table: Path, **settings: Any) -> FeatureDataModule:
    return FeatureDataModule(
        str(table), categories="source", batch_size=128, cache_dir=str(table.parent / "cache"), **settings
    )


def _trainer(folder: Path, epochs: int = 2, **settings: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )


def test_a_fit_sizes_itself_measures_itself_and_leaves_a_network(table: Path) -> None:
    data = _data(table)
    module = HierarchicalVqvae(
        strategy="worst", bits_per_feature=2.0, quantiser=SMALL, export_dir=str(table.parent / "network")
    )
    health = CodebookHealth(plot=False)
    trainer = _trainer(table.parent, callbacks=[health], enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    assert module.plan is not None
    assert module.plan.num_codes == 6  # 12 features of 2 bits in codes of 4
    (found,) = trainer.test(module, datamodule=data, verbose=False)
    # three codes of four bits or more for four features; the tied ones are known by their mean
    assert found["test/worst"] < 0.35
    # a byte for each category beside the codes, and its last byte is filled
    assert found["test/bits_per_feature"] <= 2 + 8 * 4 / (12 * len(data.rows("test")))
    assert {one.category for one in health.health} == {"tied", "free"}
    assert {one.rows for one in health.health} == {
        len(data.rows("train")) // 128 * 128
    }  # of the last epoch alone
    again = load_hierarchy(table.parent / "network")
    rows = data.sample("test", 50)
    torch.testing.assert_close(
        again.decode(again.encode(rows)), module.network.eval().decode(module.network.encode(rows))
    )
    predicted = module.predict_step({"features": rows}, 0)
    assert len(predicted) == 50
    assert len(predicted[0]["features"]) == 12
    assert set(predicted[0]["codes"]) == {"tied", "free"}


def test_gates_learn_to_meet_the_budget(table: Path) -> None:
    module = HierarchicalVqvae(strategy="uniform", bits_per_feature=1.5, quantiser=SMALL, learn_ratios=True)
    trainer = _trainer(table.parent, epochs=3, enable_checkpointing=False)
    trainer.fit(module, datamodule=_data(table))
    assert module.network.bits_per_row() == 16  # 18 bits in codes of 4
    assert all(sum(levels) >= 1 for levels in module.network.tokens_by_level().values())


class StopAfterOne(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def test_a_resumed_fit_ends_as_a_whole_one(table: Path) -> None:
    settings = QuantiserSettings(codes=16, revive_below=0.0)  # reviving draws at random

    def fit(
        callbacks: list[Callback], checkpoint: Path | None = None
    ) -> tuple[Trainer, dict[str, torch.Tensor]]:
        seed_everything(0, verbose=False)
        module = HierarchicalVqvae(strategy="uniform", bits_per_feature=1.0, quantiser=settings)
        trainer = _trainer(table.parent, callbacks=callbacks)
        trainer.fit(module, datamodule=_data(table), ckpt_path=checkpoint)
        return trainer, dict(module.network.state_dict())

    stopped, part = fit([StopAfterOne()])
    stopped.save_checkpoint(table.parent / "stopped.ckpt")
    _, whole = fit([])
    _, resumed = fit([], table.parent / "stopped.ckpt")
    name = "networks.0.levels.0.encode_linear.weight"
    assert not torch.equal(part[name], whole[name])
    for key, values in whole.items():
        torch.testing.assert_close(resumed[key], values)


def test_fewer_rows_than_codes_are_refused(table: Path) -> None:
    module = HierarchicalVqvae(quantiser=QuantiserSettings(codes=256))
    with pytest.raises(ValueError, match="as codes, got 128 rows for 256 codes"):
        _trainer(table.parent, enable_checkpointing=False).fit(module, datamodule=_data(table))


def test_ratios_that_leave_no_code_are_refused(table: Path) -> None:
    module = HierarchicalVqvae(compression_ratios=[1e6, 1e6, 1e6], quantiser=SMALL)
    with pytest.raises(ValueError, match="leave tied no code"):
        _trainer(table.parent, enable_checkpointing=False).fit(module, datamodule=_data(table))


def test_another_table_than_the_checkpoints_is_refused(table: Path) -> None:
    module = HierarchicalVqvae(strategy="uniform", bits_per_feature=1.0, quantiser=SMALL)
    trainer = _trainer(table.parent, 1)
    trainer.fit(module, datamodule=_data(table))
    trainer.save_checkpoint(table.parent / "end.ckpt")
    np.savez(
        table.parent / "other.npz", tied=np.random.default_rng(1).normal(size=(300, 12)).astype(np.float32)
    )
    with pytest.raises(
        ValueError, match="expected rows prepared as those that the checkpoint was trained on"
    ):
        _trainer(table.parent, 1).test(
            HierarchicalVqvae(quantiser=SMALL), datamodule=_data(table.parent / "other.npz"),
            ckpt_path=str(table.parent / "end.ckpt"),
        )  # fmt: skip


@pytest.mark.parametrize(
    "setting", [{"bits_per_feature": 0.0}, {"learning_rate": 0.0}, {"level_weight": -1.0}, {"hidden": -1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        HierarchicalVqvae(**setting)


def test_health_needs_codes_and_warns_of_dead_ones(table: Path) -> None:
    with pytest.raises(ValueError, match="CodebookHealth needs a HierarchicalVqvae, got LightningModule"):
        CodebookHealth().on_fit_start(_trainer(table.parent), LightningModule())
    with pytest.raises(ValueError, match="max_dead must be in"):
        CodebookHealth(max_dead=2)
    # as many codes as a batch has rows, never revived
    settings = QuantiserSettings(codes=128, revive_below=0.0)
    module = HierarchicalVqvae(strategy="uniform", bits_per_feature=2.0, quantiser=settings)
    health = CodebookHealth(max_dead=0.0, plot=False)
    trainer = _trainer(table.parent, 1, callbacks=[health], enable_checkpointing=False)
    trainer.fit(module, datamodule=_data(table))
    dead = {"dead": 0.5, "rows": 10**6}  # more rows than leave any code out by chance
    health.health = [Health(**(one.to_dict() | dead)) for one in health.health]  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="codes were not used"):
        health.on_train_end(trainer, module)
