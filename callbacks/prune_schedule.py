"""Prune gradually during a fit: the masks grow by a schedule, the rest of the weights makes up for it.

    optimiser step -> sparsity by the schedule -> masks, every so many steps -> zeros after each step
    validation -> (adaptive) the metric within its allowance? -> a higher sparsity, or a lower one

References: Zhu and Gupta, "To prune, or not to prune", ICLR 2018 workshop, https://arxiv.org/abs/1710.01878, for
``cubic`` and for masks that are chosen anew on the way; Sun et al., https://arxiv.org/abs/2306.11695, for ``wanda``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from callbacks.prune_masks import PruneMasks
from callbacks.stages.selection import select_weights
from fulgurite.codecs import SparseCodec
from fulgurite.codecs.pattern import Pattern

SCHEDULES = ("linear", "cosine", "exponential", "cubic", "adaptive")
_SETTLED = (
    0.75  # of the fit: the share of steps after which the sparsity is final, where ``end`` is not given
)
_SMALLEST_STEP = 1e-3


class PruneSchedule(Callback):
    """Sets a growing share of the selected weights to zero; logs ``prune/sparsity``.

    Args:
        sparsity: Share of zeros to end with, in [0, 1); 0.5 by default, and that of the pattern for N:M.
        pattern: ``unstructured``, ``N:M`` such as "2:4" (in quotes in YAML), or blocks such as "4x4", as for
            ``SparseCodec``. On the way to N:M the lowest of those that it drops are zero.
        score: What a weight is worth: ``magnitude``; or ``wanda``, magnitude times the root mean square of its
            input in the batch at hand (on rank 0), compared within each row. Embeddings have no inputs, and
            magnitude.
        schedule: How the sparsity grows from ``begin`` to ``end``: ``linear``; ``cosine``; ``exponential``, the
            share that is left falls by the same factor each step; ``cubic`` (Zhu and Gupta), fast first; or
            ``adaptive``, by ``increment`` as long as ``monitor`` allows it, and back if it does not.
        begin: Optimiser steps before the first mask.
        end: Step from which the sparsity is final; by default three quarters of the fit. An adaptive schedule
            changes nothing after it, and goes on to the end of the fit by default.
        every: Optimiser steps between two choices of masks; for ``adaptive`` at least, its changes are made at the step
            after a validation.
        select: Glob patterns over parameter names; the default is every matrix.
        exclude: Glob patterns to leave out of it.
        monitor: Of ``adaptive``: the name of a logged validation metric. Its value at the first validation
            from ``begin`` on is what later ones are compared with.
        mode: Whether the metric is better when ``min`` or ``max``.
        max_drop: How much worse than that value it may be, in the metric's own units.
        increment: Sparsity added at a time; halved each time the metric did not allow it.

    Raises:
        ValueError: If a setting is out of range; at the start of a fit, if a pattern matches nothing or does not
            divide a weight, if weights are spread over processes, or if ``adaptive`` has nothing to go by.

    Example:
        ``--trainer.callbacks callbacks.prune_schedule.PruneSchedule --trainer.callbacks.sparsity 0.8``
    """

    def __init__(
        self,
        sparsity: float | None = None,
        pattern: str = "unstructured",
        score: Literal["magnitude", "wanda"] = "magnitude",
        schedule: Literal["linear", "cosine", "exponential", "cubic", "adaptive"] = "cubic",
        begin: int = 0,
        end: int | None = None,
        every: int = 100,
        select: str | list[str] = "*",
        exclude: list[str] | None = None,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        max_drop: float = 0.0,
        increment: float = 0.05,
    ) -> None:
        self.final = SparseCodec(sparsity, pattern).share  # refuses what a codec refuses
        for name, value, known in (
            ("score", score, ("magnitude", "wanda")),
            ("schedule", schedule, SCHEDULES),
            ("mode", mode, ("min", "max")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if begin < 0 or (end is not None and end <= begin):
            raise ValueError(f"begin and end must be steps with 0 <= begin < end, got {begin} and {end}")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        if not max_drop >= 0:
            raise ValueError(f"max_drop must be at least 0, got {max_drop}")
        if not 0 < increment < 1:
            raise ValueError(f"increment must be in (0, 1), got {increment}")
        self.score, self.schedule, self.begin, self.end, self.every = score, schedule, begin, end, every
        self.select = [select] if isinstance(select, str) else list(select)
        self.exclude = list(exclude or [])
        self.monitor, self.mode, self.max_drop = monitor, mode, max_drop
        self.sparsity = 0.0
        """What is aimed at now; the masks follow."""
        self.increment = increment
        self.start_value: float | None = None
        """The monitored metric before the first mask."""
        self.masks = PruneMasks(
            Pattern(pattern), per_row=score == "wanda", keep_values=schedule == "adaptive"
        )
        self._masked_at = 0  # optimiser steps when masks were last chosen
        self._due = False  # whether an adaptive decision waits for the next step
        self._last_step = -1
        self._loaded: dict[str, Any] | None = None
        self._inputs: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(pattern=self.masks.pattern.text, select=self.select)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                "PruneSchedule needs whole weights: trainer.strategy must be one device or ddp, "
                f"got {type(trainer.strategy).__name__}"
            )
        for name, weight in self._weights(pl_module).items():
            try:
                self.masks.pattern.check(weight.shape[-1] if weight.dim() < 2 else weight[0].numel())
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        if self.schedule == "adaptive" and not trainer.enable_validation:
            raise ValueError("an adaptive PruneSchedule needs validation, and this fit has none")
        if self.schedule != "adaptive" and not math.isfinite(self._end(trainer)):
            raise ValueError("PruneSchedule needs end where a fit has neither max_steps nor max_epochs")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            self.masks.load_state_dict(loaded["masks"], self._weights(pl_module))

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._release()
        if self.score == "wanda" and self._chooses_at(trainer.global_step + 1, trainer):
            self._watch(pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._last_step:  # gradients may still be summed over batches
            self._last_step = step
            weights = self._weights(pl_module)
            if self._chooses_at(step, trainer):
                if self.schedule != "adaptive":
                    self.sparsity = self._scheduled(step, trainer)
                # weights are equal on every rank under DDP; inputs are not
                self.masks.choose(weights, self.sparsity, self._inputs, trainer.strategy.broadcast)
                self._masked_at, self._due = step, False
            self.masks.apply(weights)
        self._release()
        pl_module.log("prune/sparsity", self.masks.sparsity, on_step=True, on_epoch=False)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if self.schedule != "adaptive" or not fitting:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ValueError(f"monitor {self.monitor!r} is not logged in validation; logged: {known}")
        value = float(trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor])))
        step = trainer.global_step
        if step < self.begin or step > (math.inf if self.end is None else self.end):
            return
        if self.start_value is None:
            self.start_value = value
        elif step - self._masked_at < self.every:
            return
        # the masks change at the next step: a checkpoint of this validation holds what was validated
        if self._allowed(value):
            sparsity = min(self.final, self.sparsity + self.increment)
        else:
            sparsity = max(0.0, self.sparsity - self.increment)
            self.increment = max(_SMALLEST_STEP, self.increment / 2)
        self._due = sparsity != self.sparsity
        self.sparsity = sparsity

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._loaded
        return {
            "masks": self.masks.state_dict(),
            "sparsity": self.sparsity,
            "increment": self.increment,
            "start_value": self.start_value,
            "masked_at": self._masked_at,
            "due": self._due,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict  # masks on_train_start, when the device is known
        self.sparsity, self.increment = state_dict["sparsity"], state_dict["increment"]
        self.start_value = state_dict["start_value"]
        self._masked_at, self._due = state_dict["masked_at"], state_dict["due"]

    def _weights(self, pl_module: LightningModule) -> dict[str, Tensor]:
        weights = dict(pl_module.named_parameters())
        names = select_weights(
            weights,
            self.select,
            self.exclude,
            key="PruneSchedule.select",
            network=type(pl_module).__name__,
        )
        return {name: weights[name] for name in names}

    def _end(self, trainer: Trainer) -> float:
        if self.end is not None:
            return self.end
        return max(self.begin + 1, _SETTLED * trainer.estimated_stepping_batches)

    def _chooses_at(self, step: int, trainer: Trainer) -> bool:
        if self.schedule == "adaptive":
            return self._due
        if step < self.begin or self.sparsity == self.final:
            return False
        return (step - self.begin) % self.every == 0 or step >= self._end(trainer)

    def _scheduled(self, step: int, trainer: Trainer) -> float:
        return sparsity_at(self.schedule, self.final, (step - self.begin) / (self._end(trainer) - self.begin))

    def _allowed(self, value: float) -> bool:
        assert self.start_value is not None
        worse = value - self.start_value if self.mode == "min" else self.start_value - value
        return worse <= self.max_drop  # not for NaN

    def _watch(self, pl_module: LightningModule) -> None:
        """Gather the mean squares of what linear layers read in this batch."""
        wanted = self._weights(pl_module)
        for name, module in pl_module.named_modules():
            if isinstance(module, nn.Linear) and (weight := f"{name}.weight") in wanted:
                self._handles.append(module.register_forward_pre_hook(self._gather(weight)))

    def _gather(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            squares = arguments[0].detach().float().flatten(0, -2).square().mean(0)
            self._inputs[name] = self._inputs.get(name, torch.zeros_like(squares)) + squares

        return hook

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inputs.clear()


def sparsity_at(schedule: str, final: float, done: float) -> float:
    """The sparsity of a schedule that is not adaptive.

    Args:
        schedule: ``linear``, ``cosine``, ``exponential`` or ``cubic``.
        final: The sparsity at the end.
        done: Share of the way that lies behind; below 0 nothing is pruned, from 1 on all that will be.

    Example:
        >>> [sparsity_at(name, 0.75, 0.5) for name in ("linear", "exponential")]
        [0.375, 0.5]
    """
    if done >= 1:
        return final
    done = max(0.0, done)
    if schedule == "exponential":
        return 1.0 - math.pow(1.0 - final, done)
    shares: dict[str, float] = {
        "linear": done,
        "cosine": (1 - math.cos(math.pi * done)) / 2,
        "cubic": 1 - (1 - done) ** 3,
    }
    return final * shares[schedule]
