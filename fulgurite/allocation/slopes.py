"""Slopes: what a unit of a tensor's distortion costs the network, measured on its own loss.

one tensor coarsely coded, the others exact -> divergence from the reference -> / distortion -> slope

To first order the loss of a network whose tensors all carry small errors is the sum of what each costs alone,
and each is proportional to its squared error: the linearity theorem of Malinovskii et al., "Pushing the Limits of
Large Language Model Quantization via the Linearity Theorem", NAACL 2025, https://arxiv.org/abs/2411.17525,
section 3. Differs from the paper: the error is the codec's own instead of Gaussian noise, it is measured in
the codec's metric where there is one, and the loss is the divergence from the reference instead of perplexity.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

_SIGMAS = 2.0  # an effect below two standard errors of its mean is taken for noise
_RESOLUTION = 1e-6  # nats: divergences are differences of float32 logarithms, and below this mostly rounding
_LARGEST = 1.0  # nats: far from the reference the loss is no longer linear in the distortion


@dataclass(frozen=True)
class Effect:
    """What one coarse encoding of one tensor did to the network.

    Args:
        num_bytes: Of the encoding.
        distortion: Its error, in the units of the tensor's curve.
        loss: Mean divergence from the reference over batches, nats per position.
        error: Standard error of that mean.
    """

    num_bytes: int
    distortion: float
    loss: float
    error: float

    @property
    def noise(self) -> float:
        """The least loss that could be told from nothing."""
        return max(_SIGMAS * self.error, _RESOLUTION)

    @property
    def seen(self) -> bool:
        """Whether the effect stands out of the noise."""
        return self.distortion > 0 and self.loss > self.noise

    @property
    def linear(self) -> bool:
        """Whether the network was still close to the reference."""
        return self.loss <= _LARGEST  # false for NaN, too

    @property
    def slope(self) -> float:
        """Loss per distortion; of an effect that is not seen, the largest that could have been missed."""
        return (self.loss if self.seen else self.noise) / self.distortion

    def to_dict(self) -> dict[str, float]:
        """For a file."""
        return asdict(self)


@dataclass(frozen=True)
class Slopes:
    """Slopes by name, and what a reader should know about them."""

    values: Mapping[str, float]
    unseen: tuple[str, ...]
    measured: bool


def mean_effect(num_bytes: int, distortion: float, losses: Sequence[float]) -> Effect:
    """The effect from the divergences of each batch; of a single batch the error is not known and taken as 0."""
    mean = statistics.fmean(losses)
    known = len(losses) > 1 and math.isfinite(mean)
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if known else 0.0
    return Effect(num_bytes, distortion, mean, error)


def settle(effects: Mapping[str, Sequence[Effect]], unit: float = 1.0) -> Slopes:
    """One slope for each tensor, all above 0.

    The best of a tensor's effects counts: one that is seen and linear before one that is not, then the last
    probed. Where none is seen the slope is the largest that could have been missed: to take the noise's upper
    end costs a few bits at most, to take 0 would leave the tensor with none. A tensor without distortion,
    such as one of zeros, gets ``unit``: whatever it has, it costs nothing.

    Args:
        effects: What was probed, by name; a tensor without any distortion has none.
        unit: Nats per unit of the metric, for all tensors where no effect at all was seen.

    Returns:
        With ``measured`` false where the metric's own units were taken.
    """
    unseen = tuple(name for name, found in effects.items() if found and not any(one.seen for one in found))
    if all(not any(one.seen for one in found) for found in effects.values()):
        return Slopes(dict.fromkeys(effects, unit), unseen, measured=False)
    values = {name: _best(found).slope if found else unit for name, found in effects.items()}
    return Slopes(values, unseen, measured=True)


def _best(effects: Sequence[Effect]) -> Effect:
    return max(effects, key=lambda one: (one.seen and one.linear, one.seen, effects.index(one)))
