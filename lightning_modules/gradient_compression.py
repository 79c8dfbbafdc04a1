"""What compressed gradients cost and save, in the loggers; what is still to be sent, in the checkpoints.

``lightning_modules.CompressedDDP`` adds it to a training by itself.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from typing_extensions import override

from fulgurite.gradients.exchange import GradientExchange, Traffic


class GradientCompression(Callback):
    """Logs bytes on the wire, ratio, CAQ and the residual's norm; saves each rank's residual.

    A step with a gradient that is not finite on any rank is skipped on all, as a gradient scaler does, counted
    (``gradients/not_finite``), and leaves residuals as they are. A training that is resumed by another number of
    processes gives each the mean of all residuals, and says so.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()
        """Of the whole training, on this rank."""
        self._since = Traffic()
        self._loaded: list[dict[str, Any]] | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        exchange = _exchange_of(trainer)
        if self._loaded is not None and isinstance(exchange, GradientExchange):
            said = exchange.load_state_dict(self._loaded, trainer.global_rank, trainer.world_size)
            exchange.to(pl_module.device)
            if said:
                rank_zero_warn(f"gradient residuals: {said}")
        self._loaded = None

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        exchange = _exchange_of(trainer)
        if isinstance(exchange, GradientExchange) and exchange.skip:
            # an optimiser leaves alone what has no gradient: momentum and step counts too
            optimizer.zero_grad(set_to_none=True)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        exchange = _exchange_of(trainer)
        if exchange is None:
            return
        taken, exchange.traffic = exchange.traffic, Traffic()
        self.traffic, self._since = self.traffic.plus(taken), self._since.plus(taken)
        if self._since.steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            metrics = self._since.metrics()
            if isinstance(exchange, GradientExchange):
                metrics["gradients/residual_norm"] = exchange.residual_norm()
                metrics["gradients/step"] = exchange.scheduler.step
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
            self._since = Traffic()

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        exchange = _exchange_of(trainer)
        if not isinstance(exchange, GradientExchange):
            return
        # all ranks come here; rank 0 writes
        states: list[Any] | None = [None] * trainer.world_size if trainer.global_rank == 0 else None
        dist.gather_object(exchange.state_dict(), states)
        if states is not None:
            checkpoint["gradient_compression"] = states

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = checkpoint.get("gradient_compression")


def _exchange_of(trainer: Trainer) -> Any:
    """What the strategy sends gradients with; ``None`` of another strategy."""
    return getattr(trainer.strategy, "exchange", None)
