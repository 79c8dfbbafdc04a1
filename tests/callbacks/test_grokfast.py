"""Grokfast acts once per optimiser step, on the whole gradient, before clipping; a resume is exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.grokfast import Grokfast


class Regression(LightningModule):
    """One weight per column, plain SGD: steps are the gradients themselves."""

    def __init__(self, rate: float = 0.1, schedule: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.rate = rate
        self.schedule = schedule
        self.trace: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (batch @ self.weight - 1).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.trace.append(self.weight.detach().clone())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([self.weight], lr=self.rate)
        if not self.schedule:
            return optimizer
        # a chained schedule: it multiplies the rate that the optimiser holds
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(module: Regression, folder: Path, callbacks: list[Any], **settings: Any) -> Trainer:
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    checkpoint = settings.pop("ckpt_path", None)
    trainer = Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        | {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": folder}
        | settings,
        callbacks=callbacks,
    )
    trainer.fit(module, DataLoader(inputs, batch_size=4), ckpt_path=checkpoint)
    return trainer


def by_hand(accumulate: int = 1, clip: float | None = None, lamb: float = 2.0) -> list[Tensor]:
    """The same fit as a plain loop: backward, filter, clip, step."""
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.zeros(3, requires_grad=True)
    slow: Tensor | None = None
    trace = []
    for number, batch in enumerate(inputs.split(4), start=1):
        ((batch @ weight - 1).square().mean() / accumulate).backward()
        if number % accumulate == 0:
            assert weight.grad is not None
            slow = weight.grad.clone() if slow is None else 0.98 * slow + 0.02 * weight.grad
            step = weight.grad + lamb * slow
            if clip is not None:
                step = step * min(1.0, clip / float(step.norm()))
            with torch.no_grad():
                weight -= 0.1 * step
            weight.grad = None
        trace.append(weight.detach().clone())
    return trace


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.5])  # 0.5: below the filtered norm of the first steps
def test_a_fit_equals_a_plain_loop(tmp_path: Path, accumulate: int, clip: float | None) -> None:
    module = Regression()
    fit(module, tmp_path, [Grokfast()], accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    torch.testing.assert_close(module.trace, by_hand(accumulate, clip), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [False, True])
def test_the_control_run_takes_larger_steps_and_filters_nothing(tmp_path: Path, schedule: bool) -> None:
    control, larger = Regression(0.1, schedule), Regression(0.3, schedule)
    trainer = fit(control, tmp_path, [Grokfast(lamb=2.0, learning_rate_control=True)])
    fit(larger, tmp_path, [])
    torch.testing.assert_close(control.trace, larger.trace)
    rate = 0.1 * 0.9**6 if schedule else 0.1  # 6 steps; the factor never enters the schedule
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize(
    "settings",
    [{}, {"filter": "ma", "window": 3}, {"learning_rate_control": True}],
    ids=["ema", "ma", "control"],
)
def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = Regression()
    fit(whole, tmp_path, [Grokfast(**settings)], max_epochs=2)
    fit(first := Regression(), tmp_path, [Grokfast(**settings)]).save_checkpoint(tmp_path / "half.ckpt")
    second = Regression()
    resumed = str(tmp_path / "half.ckpt")
    fit(second, tmp_path, [Grokfast(**settings)], max_epochs=2, ckpt_path=resumed)
    trace = first.trace + second.trace
    assert len(trace) == 12
    assert all(torch.equal(one, other) for one, other in zip(trace, whole.trace, strict=True))


def test_a_strategy_that_shards_gradients_is_refused() -> None:
    class Sharded:
        strategy = object()

    with pytest.raises(ValueError, match="one device or ddp, got object"):
        Grokfast().on_fit_start(Sharded(), Regression())  # type: ignore[arg-type]


def test_bad_settings_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\)"):
        Grokfast(alpha=1.5)
