"""Data-parallel training that sends gradients in few bytes, on gloo as on NCCL.

trainer.strategy: {class_path: lightning_modules.CompressedDDP, init_args: {target: 8}}

Lightning's own ``ddp_comm_hook`` is registered on CUDA alone and forgotten elsewhere; here it is registered always.
"""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from fulgurite.gradients.codec import GradientCodec
from fulgurite.gradients.counted import CountedHook, fp16, plain, power_sgd
from fulgurite.gradients.exchange import GradientExchange
from fulgurite.gradients.predictor import load_predictor
from fulgurite.gradients.scheduler import CaqScheduler
from lightning_modules.gradient_compression import GradientCompression

Method = Literal["adaptive", "fixed", "fp16", "powersgd", "none"]


class CompressedDDP(DDPStrategy):
    """Lightning's DDP with compressed gradients. ``GradientCompression`` logs it and is added by itself.

    Args:
        method: ``adaptive``, our code; ``fixed``, the same with equal bits for all channels; ``fp16`` and ``powersgd``,
            PyTorch's; ``none``, float32.
        target: CAQ to hold, of ``adaptive`` and ``fixed``: compression ratio / (CPU seconds of a step + 1).
        predictor: File of an ``EntropyPredictor``; by default bits follow from each channel's variance alone.
        threshold: Share of a quantisation step in [0.5, 1] below which an entry is pruned.
        balance: How much a channel's quantisation step follows the channel's size, in [0, 1]: 0 leaves out the least
            energy, and more is kinder to Adam, which divides each gradient by its size.
        bits: Of ``fixed``, 2 to 8.
        most_error: Largest share of the energy that a step may leave out: what it leaves out is sent later.
        rank: Of ``powersgd``.
        dense_steps: First steps to send uncompressed.
        min_size: Entries below which a tensor is sent uncompressed; vectors always are.
        kwargs: Of ``DDPStrategy``.

    Raises:
        ValueError: If a setting is out of range, or the method is not known.
    """

    def __init__(
        self,
        method: Method = "adaptive",
        target: float = 8.0,
        predictor: str | None = None,
        threshold: float = 0.6,
        balance: float = 0.5,
        bits: int = 4,
        most_error: float = 0.98,
        rank: int = 4,
        dense_steps: int = 50,
        min_size: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.exchange: GradientExchange | CountedHook | None = None
        if method in ("adaptive", "fixed"):
            codec = GradientCodec(
                None if predictor is None else load_predictor(predictor),
                threshold,
                bits if method == "fixed" else None,
                balance,
            )
            scheduler = CaqScheduler(target, most_error=most_error)
            self.exchange = GradientExchange(codec, scheduler, dense_steps=dense_steps, min_size=min_size)
        elif method == "none":
            self.exchange = plain()
        elif method == "fp16":
            self.exchange = fp16()
        elif method != "powersgd":
            raise ValueError(f"method must be adaptive, fixed, fp16, powersgd or none, got {method!r}")
        elif rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.method = method
        self._rank, self._dense_steps = rank, dense_steps

    @override
    def setup_environment(self) -> None:
        super().setup_environment()
        if self.lightning_module is None:
            return
        # before a checkpoint is read, which is given to the callbacks that there are
        callbacks: list[Any] = self.lightning_module.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, GradientCompression) for callback in callbacks):
            callbacks.append(GradientCompression())

    @override
    def _register_ddp_hooks(self) -> None:
        if not isinstance(self.model, DistributedDataParallel):
            raise TypeError(f"expected a network in DistributedDataParallel, got {type(self.model).__name__}")
        parameters = dict(self.model.module.named_parameters())
        if self.method == "powersgd":
            flat = [name for name, parameter in parameters.items() if parameter.dim() == 0]
            if flat:
                raise ValueError(
                    f"method powersgd: PyTorch's hook takes no parameter without dimensions, got {flat[0]}; "
                    "expected adaptive, fixed, fp16 or none for this network"
                )
        if self.exchange is None:  # PowerSGD asks for the process group, which is there now
            self.exchange = power_sgd(self._rank, self._dense_steps)
        if isinstance(self.exchange, GradientExchange):
            self.exchange.bind(parameters, loss_scale=self._loss_scale)
        exchange = self.exchange
        # torch checks names and annotations of a hook's arguments; a lambda has none to check
        self.model.register_comm_hook(None, lambda state, bucket: exchange(state, bucket))

    def _loss_scale(self) -> float:
        """What the loss of the step at hand was multiplied with."""
        plugin = self.precision_plugin
        scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
        return 1.0 if scaler is None else float(scaler.get_scale())
