"""Train the network that predicts how many bits a channel of a gradient takes.

statistics [b, 6] -> EntropyPredictor -> bits [b] -> Huber loss with what the coder took
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.gradients.entropy import Gaussian
from fulgurite.gradients.predictor import EntropyPredictor, load_predictor, save_predictor
from lightning_modules.optimisation import adamw_cosine

FILE = "predictor.safetensors"
_HELD_OUT = ("unseen_layers", "unseen_steps")


class EntropyPredictorModule(LightningModule):
    """Two layers of 64, over ``datamodules.GradientRecordsDataModule``.

    Validation and test log the mean absolute error in bits per value, ``val/error``, and beside it that of the
    entropy of a rounded Gaussian of the same variance, ``val/error_gaussian``: where that is smaller, the predictor is
    not worth having.

    Args:
        source: File of a predictor to go on from.
        learning_rate: Highest of AdamW.
        export_dir: Folder that gets ``predictor.safetensors`` at the end of a fit.

    Raises:
        ValueError: If the learning rate is not above 0.
    """

    def __init__(
        self, source: str | None = None, learning_rate: float = 3e-3, export_dir: str | None = None
    ) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        self.learning_rate, self.export_dir = learning_rate, export_dir
        self._begun = source is not None
        self.predictor = EntropyPredictor() if source is None else load_predictor(source)
        self._gaussian = Gaussian()

    @override
    def on_fit_start(self) -> None:
        if not self._begun and float(self.predictor.scale.sum()) == len(self.predictor.scale):
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.predictor.fit_inputs(data.train_statistics.to(self.device))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        statistics, bits = batch
        loss = functional.huber_loss(self.predictor(statistics), bits, delta=0.1)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._measure("val", batch)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._measure(f"test/{_HELD_OUT[dataloader_idx]}", batch)

    def _measure(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        statistics, bits = batch
        for name, found in (
            ("error", self.predictor(statistics)),
            ("error_gaussian", self._gaussian(statistics)),
        ):
            self.log(
                f"{split}/{name}",
                (found - bits).abs().mean(),
                batch_size=len(bits),
                sync_dist=True,
                add_dataloader_idx=False,
            )

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_cosine(self, learning_rate=self.learning_rate, weight_decay=1e-4, warmup_share=0.05)

    @override
    def on_fit_end(self) -> None:
        if self.export_dir is not None and self.trainer.is_global_zero:
            save_predictor(self.predictor, Path(self.export_dir) / FILE)
