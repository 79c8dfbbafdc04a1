"""Whether the codes of a ``HierarchicalVqvae`` are used: counted over each epoch, logged, and warned about.

train codes of an epoch -> counts -> used, dead, perplexity -> loggers, warning, plot
"""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from fulgurite.vqvae.health import Health, Usage, expected_dead
from fulgurite.vqvae.hierarchy import Hierarchy


class CodebookHealth(Callback):
    """Use, dead codes and perplexity by category and level, over whole epochs.

    Counted are the codes that training rows chose, each by the codebooks of its step. What revives rare codes is the
    quantiser, see ``QuantiserSettings.revive_below``.

    Args:
        max_dead: Share of dead codes above which it warns.
        plot: Whether to send a plot to loggers that take figures, at the end.

    Raises:
        ValueError: If ``max_dead`` is out of range; at the start of a fit, if the module has no codes.
    """

    def __init__(self, max_dead: float = 0.05, plot: bool = True) -> None:
        if not 0 <= max_dead <= 1:
            raise ValueError(f"max_dead must be in [0, 1], got {max_dead}")
        self.max_dead = max_dead
        self.plot = plot
        self.health: list[Health] = []
        self._usage: Usage | None = None
        self._handle: Any = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hierarchy = getattr(pl_module, "hierarchy", None)
        if not isinstance(hierarchy, Hierarchy):
            raise ValueError(f"CodebookHealth needs a HierarchicalVqvae, got {type(pl_module).__name__}")
        self._usage = Usage(hierarchy)
        self._handle = hierarchy.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training and self._usage is not None:
            self._usage.add(output)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._usage is not None:
            self._usage.clear()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._usage is not None
        if trainer.world_size > 1:  # each rank has seen its share of the rows
            for key, counts in self._usage.counts.items():
                self._usage.counts[key] = trainer.strategy.reduce(
                    counts.to(pl_module.device), reduce_op="sum"
                ).cpu()
        self.health = self._usage.health()
        metrics: dict[str, float] = {}
        for one in self.health:
            place = f"codebook/{one.category}/level{one.level}"
            metrics |= {
                f"{place}/used": one.used,
                f"{place}/dead": one.dead,
                f"{place}/perplexity": one.perplexity,
            }
        if self.health:
            books = sum(one.tokens * one.codes for one in self.health)
            metrics["codebook/dead"] = sum(one.dead * one.tokens * one.codes for one in self.health) / books
        pl_module.log_dict(metrics, rank_zero_only=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()
        for one in self.health:
            if one.dead > self.max_dead and one.dead > 2 * expected_dead(one):
                warnings.warn(
                    f"{one.category}, level {one.level}: {100 * one.dead:.1f} % of its {one.codes} codes were not used "
                    f"in the last epoch's {one.rows:,} rows; raise quantiser.revive_below, or take fewer codes",
                    stacklevel=2,
                )
        if self.plot and self.health and trainer.is_global_zero:
            self._send_plot(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _send_plot(self, trainer: Trainer) -> None:
        takers = [
            logger for logger in trainer.loggers if hasattr(getattr(logger, "experiment", None), "add_figure")
        ]
        images = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        if not takers and not images:
            return
        from fulgurite.features.plots import plot_health

        figure = plot_health(self.health)
        logger: Any
        for logger in takers:
            logger.experiment.add_figure("codebooks", figure, trainer.global_step)
        for logger in images:
            logger.log_image("codebooks", [_picture(figure)])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"health": [one.to_dict() for one in self.health]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.health = [Health(**one) for one in state_dict["health"]]


def _picture(figure: Any) -> Any:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)
