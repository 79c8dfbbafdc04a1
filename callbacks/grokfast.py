"""Grokfast on any fit: the filter's place is between the gradient and the optimiser.

backward -> sum over micro-batches, mean over ranks, unscale -> filter -> clip -> optimiser step

Lightning calls ``on_before_optimizer_step`` once per optimiser step, after accumulation, after the
all-reduce of DDP (every rank then filters the same gradients to the same result) and after a
gradient scaler has unscaled, and before it clips. Weight decay lies in the optimiser, after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_modules.gradient_filter import GradientFilter


class Grokfast(Callback):
    """Amplifies slow gradients, see ``GradientFilter``; a claim for it needs the control run.

    Args:
        filter: ``ema`` or ``ma``.
        alpha: Momentum of the EMA, in [0, 1).
        lamb: Weight of the slow part.
        window: Gradients in the MA.
        warmup: Whether the MA waits until it has ``window`` gradients.
        learning_rate_control: Do not filter, but take each step with ``1 + lamb`` times the learning
            rate: the comparison that tells the filter from a larger step. Logged learning rates are
            the schedule's, without the factor.

    Raises:
        ValueError: If a setting is out of range; at the start of a fit, if the strategy spreads one
            gradient over several processes.
    """

    def __init__(
        self,
        filter: str = "ema",
        alpha: float = 0.98,
        lamb: float = 2.0,
        window: int = 100,
        warmup: bool = True,
        learning_rate_control: bool = False,
    ) -> None:
        self.learning_rate_control = learning_rate_control
        self._filter = GradientFilter(filter, alpha, lamb, window, warmup)
        self._loaded: dict[str, Any] | None = None
        self._handles: list[RemovableHandle] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                "Grokfast needs whole gradients: trainer.strategy must be one device or ddp, "
                f"got {type(trainer.strategy).__name__}"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:
            self._filter.load_state_dict(self._loaded, pl_module.device)
            self._loaded = None
        if self.learning_rate_control:
            for optimizer in trainer.optimizers:
                self._handles += _scale_steps(optimizer, 1 + self._filter.lamb)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.learning_rate_control:
            return
        parameters = list(_named(pl_module, optimizer))
        # the scaler drops a step whose gradients overflowed; one infinity would stay in the average
        scaled = isinstance(trainer.precision_plugin, MixedPrecision) and trainer.precision_plugin.scaler
        if scaled and not all(_finite(parameter) for _, parameter in parameters):
            return
        self._filter.apply_(parameters)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._filter.state_dict() if self._loaded is None else self._loaded

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict  # applied on_train_start, when the device is known


def _named(pl_module: LightningModule, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ((name, parameter) for name, parameter in pl_module.named_parameters() if id(parameter) in held)


def _finite(parameter: Tensor) -> bool:
    return parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


def _scale_steps(optimizer: Optimizer, factor: float) -> list[RemovableHandle]:
    """Multiply the learning rates during each step only: schedules and checkpoints see the plain ones."""
    kept: list[Any] = []

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        kept[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            group["lr"] = rate

    return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
