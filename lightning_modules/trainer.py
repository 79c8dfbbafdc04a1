"""The Trainer of Lightning with one more verb."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus

from lightning_modules.compressible import introduce
from lightning_modules.ranks import WatchingLauncher
from lightning_modules.same_ranks import require_same
from lightning_modules.sharded import Sharded

_COLLECTIVE_TIMEOUT = timedelta(days=2)  # ranks wait for rank 0 while it refines; the default is 30 minutes


class Trainer(LightningTrainer):
    """Lightning's Trainer with ``compress`` beside ``fit``, ``validate``, ``test`` and ``predict``."""

    recipe: dict[str, Any] | None = None
    """What the command line resolved to: the same on all ranks."""

    compressing = False
    """Within ``compress``: modules leave their network whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.strategy, ModelParallelStrategy) and not isinstance(self.strategy, Sharded):
            # it shares out nodes, and leaves tensor parallelism inside of them to modules: ours have none
            raise ValueError(
                "trainer.strategy: expected auto, ddp or sharded (FSDP2 over all processes), "
                f"got {type(self.strategy).__name__}"
            )
        found = self.strategy.launcher
        if type(found) is _SubprocessScriptLauncher:
            self.strategy._launcher = WatchingLauncher(
                found.cluster_environment, found.num_processes, found.num_nodes
            )

    def compress(self, model: LightningModule, datamodule: LightningDataModule | None = None) -> None:
        """Compress a trained network by the cascade in ``cascade``, under its quality gate.

        Args:
            model: A module that implements ``Compressible``.
            datamodule: Text or pictures to calibrate on, to refine on and to judge by.

        Raises:
            ValueError: If there is no cascade or no data, or the strategy is another than auto, ddp or sharded.
        """
        if datamodule is None:
            raise ValueError("compress needs data to judge by; give --data")
        if not self._compressors():
            raise ValueError("compress needs a cascade; give --cascade or a callback with on_compress")
        if not isinstance(self.strategy, SingleDeviceStrategy | DDPStrategy | Sharded):
            raise ValueError(
                "compress needs to know where the network is: expected trainer.strategy auto, ddp or sharded, "
                f"got {type(self.strategy).__name__}"
            )
        if isinstance(self.strategy, DDPStrategy | Sharded):
            self.strategy._timeout = max(self.strategy._timeout or timedelta(0), _COLLECTIVE_TIMEOUT)
        self.state.fn = (
            TrainerFn.VALIDATING
        )  # the closest that Lightning has: no gradients, no loop of its own
        self.state.status = TrainerStatus.RUNNING
        self.compressing = True
        try:
            call._call_and_handle_interrupt(self, self._compress, model, datamodule)
        finally:
            self.compressing = False
        self.state.status = TrainerStatus.FINISHED

    callbacks: list[Callback]

    def _compressors(self) -> list[Any]:
        return [callback for callback in self.callbacks if hasattr(callback, "on_compress")]

    def _compress(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        self.strategy._lightning_module = model
        self._data_connector.attach_datamodule(model, datamodule=datamodule)
        model.trainer = self
        self.strategy.setup_environment()
        require_same(self, self.recipe)
        model.configure_model()
        introduce(datamodule, model)
        if self.is_global_zero:  # one process fills the caches that all read
            datamodule.prepare_data()
        self.strategy.barrier("prepare_data")
        datamodule.setup("fit")
        status = "failed"
        try:
            for callback in self._compressors():
                callback.on_compress(self, model, datamodule)
            status = "success"
        finally:
            for logger in self.loggers:
                logger.finalize(status)

    @property
    def output_dir(self) -> Path:
        """Where a run writes."""
        return Path(self.default_root_dir)
