r"""Train a network for the bits that it will get: any codec in the forward pass.

    weight w -> codec -> w_hat, every few steps          forward: w + (w_hat - w), the bracket a constant
             \-------------------------------> gradient of w_hat taken for that of w

Reference: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013,
https://arxiv.org/abs/1308.3432: the straight-through estimator. Differs from the paper: a slow codec is asked every few
steps only, and in between its last error stands for the next one.

The rate term is the mean of ``log2(1 + |w| / step)`` over the coded weights, in bits per weight but for a constant:
what an entropy coder takes for a magnitude, roughly, and for every codec a smooth pull of small weights to zero. The
step is the root mean square of the codec's error times sqrt(12): that of a uniform quantiser with such an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from fulgurite.codecs import Codec, decode
from fulgurite.threads import side_by_side


@dataclass(frozen=True)
class Quantise:
    """A codec to train for.

    Args:
        codec: Any; 8 and 4 bits are ``UniformCodec(bits=8)`` and ``UniformCodec(bits=4)``.
        select: Glob pattern over names of matrices that it codes.
        every: Steps between two times that it is asked. 1 for a codec as quick as ``uniform``.
        start: Step from which it is in the forward pass.
        rate_weight: Of the rate term, in units of the loss for a bit per weight.

    Raises:
        ValueError: If a number is out of range.
    """

    codec: Codec
    select: str = "*"
    every: int = 1
    start: int = 0
    rate_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("start", 0), ("rate_weight", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"quantise.{name} must be at least {least}, got {getattr(self, name)}")


class Quantised(nn.Module):
    """A network whose matrices are what a codec makes of them, with gradients as if they were not.

    Args:
        network: Trained in place; its own weights stay exact.
        settings: Which codec, and when.

    Raises:
        ValueError: If ``select`` matches no matrix.
    """

    def __init__(self, network: nn.Module, settings: Quantise) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.names = [
            name
            for name, weight in network.named_parameters()
            if weight.dim() >= 2 and fnmatchcase(name, settings.select)
        ]
        if not self.names:
            raise ValueError(
                f"quantise.select {settings.select!r} matches no matrix of {type(network).__name__}"
            )
        self.errors: dict[str, Tensor] = {}
        """What the codec last did to each matrix; part of a training's state where it is asked every few steps."""
        self._asked = -1

    @property
    def config(self) -> Any:
        """The network's."""
        return self.network.config

    def take(self, errors: Mapping[str, Tensor]) -> None:
        """Go on with the errors of an earlier start."""
        self.errors = {name: error.to(self.network.get_parameter(name)) for name, error in errors.items()}
        self._asked = -1

    @torch.no_grad()
    def ask(self, step: int) -> None:
        """Ask the codec, if it is time."""
        settings = self.settings
        if step == self._asked:
            return  # for another batch of the same step
        self._asked = step
        if step < settings.start:
            self.errors = {}
        elif not self.errors or (step - settings.start) % settings.every == 0:
            self.ask_now()

    @torch.no_grad()
    def ask_now(self) -> None:
        """Ask the codec."""
        settings = self.settings
        weights = {name: self.network.get_parameter(name).detach() for name in self.names}
        bound = settings.codec.draft().bind(weights, {}, {})

        def error(name: str) -> Tensor:
            weight = weights[name]
            return decode(bound[name].encode(weight)).to(weight) - weight

        threads = None if settings.codec.one_thread else 1
        self.errors = dict(zip(self.names, side_by_side(error, self.names, threads), strict=True))

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        replaced: Mapping[str, Tensor] = {
            name: self.network.get_parameter(name) + error for name, error in self.errors.items()
        }
        return functional_call(self.network, dict(replaced), args, kwargs)

    def rate(self) -> Tensor:
        """The rate term, bits per weight but for a constant; 0 before the codec was asked."""
        total, count = torch.zeros(()), 0
        for name, error in self.errors.items():
            step = (12 * error.square().mean()).sqrt().clamp_min(1e-12)
            weight = self.network.get_parameter(name)
            total = total.to(weight) + torch.log2(1 + weight.abs() / step).sum()
            count += weight.numel()
        return total / max(1, count)
