"""Pruning during a fit: the sparsity follows its schedule, zeros stay zero, a resume is exact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rank_processes import finish, start
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.prune_schedule import PruneSchedule, sparsity_at
from fulgurite.codecs import SparseCodec, decode


class Student(LightningModule):
    """Two layers that learn what two others do; 8 of 12 hidden units would do."""

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
        self.rate = rate

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (self.net(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))
        zeros = sum(int((layer.weight == 0).sum()) for layer in (self.net[0], self.net[2]))
        self.log("val/zeros", zeros / 144.0)  # 96 and 48 weights

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


class Trace(Callback):
    """What the sparsity is after each batch."""

    def __init__(self) -> None:
        self.zeros: list[float] = []
        self.aims: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        weight = pl_module.net[0].weight  # type: ignore[union-attr,index]
        self.zeros.append(float((weight == 0).float().mean()))
        self.aims.append(float(trainer.callback_metrics["prune/sparsity"]))


def batches(size: int = 4, alike: bool = False) -> DataLoader[Any]:
    """20 batches of 4, all the same one where ``alike``."""
    chance = torch.Generator().manual_seed(1)
    inputs = torch.randn(80, 8, generator=chance)
    if alike:  # a plain loader begins an epoch anew after a resume
        inputs = inputs[:4].repeat(20, 1)
    target = torch.tanh(inputs @ torch.randn(8, 4, generator=chance))
    return DataLoader(TensorDataset(inputs, target), batch_size=size)


def fit(schedule: PruneSchedule, folder: Path, *more: Callback, **settings: Any) -> Student:
    module = settings.pop("module", None) or Student()
    checkpoint, alike = settings.pop("ckpt_path", None), settings.pop("alike", False)
    trainer = Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        | {"enable_model_summary": False, "default_root_dir": folder, "num_sanity_val_steps": 1}
        | {"enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in more)}
        | settings,
        callbacks=[schedule, *more],
    )
    trainer.fit(module, batches(alike=alike), batches(40), ckpt_path=checkpoint)
    return module


def weights_of(module: Student) -> list[Tensor]:
    return [module.net[0].weight.detach(), module.net[2].weight.detach()]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.2, 0.4, 0.6, 0.8]),
        ("cosine", [0.4 * (1 - math.sqrt(0.5)), 0.4, 0.4 * (1 + math.sqrt(0.5)), 0.8]),
        ("exponential", [1 - 0.2**0.25, 1 - 0.2**0.5, 1 - 0.2**0.75, 0.8]),
        ("cubic", [0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8 * (1 - 0.25**3), 0.8]),
    ],
)
def test_the_sparsity_follows_its_schedule(schedule: Any, expected: list[float], tmp_path: Path) -> None:
    trace = Trace()
    fit(
        PruneSchedule(0.8, schedule=schedule, begin=2, end=14, every=3, select="net.0.weight"),
        tmp_path,
        trace,
    )
    steps = [math.floor(96 * share + 1e-6) / 96 for share in expected]
    # 20 steps, the masks chosen after the 5th, 8th, 11th and 14th
    wanted = [0.0] * 4 + [steps[0]] * 3 + [steps[1]] * 3 + [steps[2]] * 3 + [steps[3]] * 7
    assert trace.zeros == pytest.approx(wanted, abs=1e-6)
    assert trace.aims == pytest.approx(wanted, abs=1e-6)


def test_an_end_between_two_choices_is_still_met(tmp_path: Path) -> None:
    trace = Trace()
    fit(PruneSchedule(0.5, begin=0, end=10, every=7, select="net.0.weight"), tmp_path, trace)
    assert trace.zeros[8] < 0.5
    assert trace.zeros[9:] == [0.5] * 11


def test_without_an_end_the_last_quarter_has_the_final_mask(tmp_path: Path) -> None:
    trace = Trace()
    fit(PruneSchedule(0.5, every=4, select="net.0.weight"), tmp_path, trace)
    assert [round(share, 2) for share in trace.zeros[13:16]] == [0.49, 0.5, 0.5]


def test_what_is_kept_trains_on_and_the_smallest_go(tmp_path: Path) -> None:
    # no step moves a weight: which are zero is plain to see
    still = fit(PruneSchedule(0.5, end=4, every=1, exclude=["net.2.*"]), tmp_path, module=Student(rate=0.0))
    start = weights_of(Student())
    expected = decode(SparseCodec(0.5).encode(start[0])) != 0
    assert torch.equal(weights_of(still)[0], start[0] * expected)
    assert torch.equal(weights_of(still)[1], start[1])
    moved = weights_of(fit(PruneSchedule(0.5, end=4, every=1), tmp_path))
    assert int((moved[0] != start[0]).sum()) > 48  # those that were kept, and those that became zero


def test_steps_are_the_optimisers(tmp_path: Path) -> None:
    trace = Trace()
    fit(
        PruneSchedule(0.5, "unstructured", begin=0, end=2, every=1, select="net.0.weight"),
        tmp_path,
        trace,
        accumulate_grad_batches=4,
    )
    # 20 batches are 5 steps: the first mask after the 4th batch, the last after the 8th
    assert trace.zeros[:3] == [0.0] * 3
    assert trace.zeros[7:] == [0.5] * 13


def test_n_of_m_comes_gradually_and_exactly(tmp_path: Path) -> None:
    trace = Trace()
    module = fit(PruneSchedule(pattern="2:4", schedule="linear", end=10, every=5), tmp_path, trace)
    assert trace.zeros[5] == 0.25
    for weight in weights_of(module):
        assert ((weight == 0).reshape(-1, 4).sum(1) == 2).all()


def test_wanda_counts_the_inputs_of_the_batch(tmp_path: Path) -> None:
    module = fit(
        PruneSchedule(0.5, score="wanda", end=1, every=1, select="net.0.weight"),
        tmp_path,
        module=Student(rate=0.0),
    )
    inputs = next(iter(batches()))[0]
    start = weights_of(Student())[0]
    scores = start.abs() * inputs.square().mean(0).sqrt()
    gone = scores.argsort(1)[:, :4]  # 4 of 8 in each row
    assert torch.equal(
        weights_of(module)[0] == 0, torch.zeros(12, 8, dtype=torch.bool).scatter(1, gone, True)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 0.7, "end": 30, "every": 4},
        {"pattern": "2:4", "schedule": "linear", "end": 30, "every": 4, "score": "wanda"},
        {"sparsity": 0.7, "schedule": "adaptive", "every": 1, "max_drop": 0.3, "monitor": "val/zeros"},
    ],
    ids=["cubic", "n:m-wanda", "adaptive"],
)
@pytest.mark.parametrize(
    "step", [13, 10]
)  # between validations; and of one, when adaptive has decided but not acted
def test_a_fit_resumed_within_the_schedule_equals_an_uninterrupted_one(
    settings: dict[str, Any], step: int, tmp_path: Path
) -> None:
    trainer = {"max_epochs": 2, "val_check_interval": 5, "alike": True}
    saving = (
        ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=13, save_top_k=-1)
        if step == 13
        else ModelCheckpoint(tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    )
    whole, first = PruneSchedule(**settings), Student()
    fit(whole, tmp_path, saving, module=first, **trainer)
    again, second = PruneSchedule(**settings), Student()
    resumed = str(tmp_path / f"step={step}.ckpt")
    held = torch.load(resumed, weights_only=False)["callbacks"][again.state_key]
    assert 0 < held["sparsity"] < whole.sparsity
    assert held["masks"]["masks"]
    fit(again, tmp_path, module=second, ckpt_path=resumed, **trainer)
    for one, other in zip(weights_of(first), weights_of(second), strict=True):
        assert torch.equal(one, other)
    assert again.sparsity == whole.sparsity
    assert all(torch.equal(again.masks.dropped[name], mask) for name, mask in whole.masks.dropped.items())


def test_adaptive_goes_as_far_as_the_metric_allows_and_settles_there(tmp_path: Path) -> None:
    # the metric is the share of zeros itself: 0.31 more than none is what it may be
    schedule = PruneSchedule(
        0.9,
        schedule="adaptive",
        monitor="val/zeros",
        max_drop=0.31,
        increment=0.1,
        every=1,
    )
    trace = Trace()
    fit(schedule, tmp_path, trace, max_epochs=4, val_check_interval=5)
    assert schedule.start_value == 0.0
    found = trace.aims[3::5]  # before each of the 16 validations; of 144 weights whole ones
    # 0.4 is beyond, and is taken back
    assert found[:6] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.3], abs=0.015)
    assert max(found[5:]) < 0.36  # half the increment from there
    assert 0.26 < found[-1] < 0.36
    assert schedule.increment < 0.1


def test_adaptive_gives_back_what_it_took(tmp_path: Path) -> None:
    # at most a tenth of zeros: half of the weights go after the first validation and are back after the second
    schedule = PruneSchedule(
        0.5, schedule="adaptive", monitor="val/zeros", max_drop=0.1, increment=0.5, every=1, end=12
    )
    module = Student(rate=0.0)
    trace = Trace()
    fit(schedule, tmp_path, trace, module=module, val_check_interval=5)
    assert trace.zeros[6] == 0.5
    assert all(torch.equal(*pair) for pair in zip(weights_of(module), weights_of(Student()), strict=True))


def test_a_checkpoint_of_a_validation_holds_what_was_validated(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/zeros", save_top_k=-1)
    schedule = PruneSchedule(
        0.9, schedule="adaptive", monitor="val/zeros", max_drop=1.0, increment=0.25, every=1
    )
    fit(schedule, tmp_path, saving, val_check_interval=5)
    for step, zeros in ((5, 0.0), (10, 0.25), (15, 0.5)):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=False)["state_dict"]
        assert float((saved["net.0.weight"] == 0).float().mean()) == zeros


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"pattern": "2:x"}, "pattern must be"),
        ({"pattern": "2:4", "sparsity": 0.3}, "has sparsity 0.5, got 0.3"),
        ({"score": "sparsegpt"}, "score must be one of magnitude, wanda, got 'sparsegpt'"),
        ({"schedule": "steps"}, "schedule must be one of linear, cosine, exponential, cubic, adaptive"),
        ({"begin": 5, "end": 5}, "0 <= begin < end, got 5 and 5"),
        ({"every": 0}, "every must be at least 1"),
        ({"mode": "least"}, "mode must be one of min, max"),
        ({"max_drop": -0.1}, "max_drop must be at least 0"),
        ({"increment": 0.0}, r"increment must be in \(0, 1\)"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneSchedule(**settings)


@pytest.mark.parametrize(
    ("settings", "trainer", "message"),
    [
        ({"select": "nte.*"}, {}, r'no weight of Student matches PruneSchedule.select "nte'),
        (
            {"pattern": "2:16"},
            {},
            r'net.0.weight: pattern "2:16" needs rows of a multiple of 16 .* rows of 8',
        ),
        ({"schedule": "adaptive"}, {"limit_val_batches": 0}, "needs validation, and this fit has none"),
        (
            {"schedule": "adaptive", "monitor": "val/acc"},
            {},
            "'val/acc' is not logged .* val/loss, val/zeros",
        ),
        ({}, {"max_epochs": -1}, "needs end where a fit has neither"),
    ],
)
def test_what_does_not_fit_the_network_or_the_run_is_refused(
    settings: dict[str, Any], trainer: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(PruneSchedule(**settings), tmp_path, **trainer)


def test_a_strategy_that_shards_weights_is_refused() -> None:
    class Sharded:
        strategy = object()

    with pytest.raises(ValueError, match="one device or ddp, got object"):
        PruneSchedule().on_fit_start(Sharded(), Student())  # type: ignore[arg-type]


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=10, save_top_k=-1)
    fit(PruneSchedule(0.5, every=2), tmp_path, saving)
    other = PruneSchedule(0.5, every=2, exclude=["net.2.*"])
    with pytest.raises(ValueError, match=r"1 selected weights; not in both: \['net.2.weight'\]"):
        fit(other, tmp_path, ckpt_path=str(tmp_path / "step=10.ckpt"), max_epochs=2)


def test_schedules_begin_with_nothing_and_end_with_all() -> None:
    for name in ("linear", "cosine", "exponential", "cubic"):
        assert sparsity_at(name, 0.6, -0.1) == pytest.approx(0)
        assert sparsity_at(name, 0.6, 1.2) == 0.6


def test_it_is_named_in_a_recipe_and_its_zeros_reach_the_exported_network(
    small_data: dict[str, Any], tmp_path: Path
) -> None:
    from fulgurite.cli.main import main

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    init = {
        "class_path": "callbacks.prune_schedule.PruneSchedule",
        "init_args": {"pattern": "2:4", "end": 4, "every": 2, "exclude": ["*embed*"]},
    }
    content = {
        "model": {
            "class_path": "lightning_modules.LanguageModel",
            "init_args": {"config": {"model_type": "llama", "tie_word_embeddings": True, **sizes}},
        },
        "data": {**small_data, "init_args": {**small_data["init_args"], "train_tokenizer_vocab": 300}},
        "trainer": {"max_steps": 6, "accelerator": "cpu", "limit_val_batches": 1, "callbacks": [init]},
    }
    recipe = tmp_path / "fit.yaml"
    recipe.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(recipe), "--output_dir", str(tmp_path / "run")]) == 0
    weights = load_file(tmp_path / "run" / "network" / "model.safetensors")
    pruned = {name for name, weight in weights.items() if (weight == 0).float().mean() == 0.5}
    assert len(pruned) == 7  # four matrices of the attention, three of the feed-forward network


class Saved(Callback):
    """Writes what each rank ended with."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), Path(trainer.default_root_dir) / f"{trainer.global_rank}.pt")


def test_ranks_agree_although_each_sees_other_inputs(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        schedule = PruneSchedule(0.6, score="wanda", end=6, every=2)
        fit(schedule, tmp_path, Saved(), devices=2, strategy="ddp", use_distributed_sampler=True)
        return 0

    for status, said in finish(start(2, work, tmp_path), tmp_path):
        assert status == 0, said
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # 8 and 12 inputs a row, of which 60 % is 4 and 7
    assert float((first["net.0.weight"] == 0).float().mean()) == 0.5
    assert float((first["net.2.weight"] == 0).float().mean()) == pytest.approx(7 / 12)


def test_the_fragment_of_the_page_goes_with_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    from fulgurite.cli.main import main

    root = Path(__file__).resolve().parents[2]
    fragment = root / "configs" / "callbacks" / "prune.yaml"
    assert fragment.read_text().split("\n", 2)[2] in (root / "docs" / "pruning.md").read_text()
    recipe = str(root / "configs" / "recipes" / "quickstart_fit.yaml")
    assert main(["fit", "--config", recipe, "--config", str(fragment), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert printed[0]["class_path"] == "callbacks.prune_schedule.PruneSchedule"
    assert (printed[0]["init_args"]["sparsity"], printed[0]["init_args"]["pattern"]) == (0.8, "unstructured")
