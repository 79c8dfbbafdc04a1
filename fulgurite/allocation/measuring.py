"""Measure one weight's curve: encode some of its rows with every candidate.

weight -> evenly spaced rows -> each codec: encode, decode -> bytes and error of the rows -> of the whole weight

A curve takes as many encodings as there are candidates, so large weights are measured on a sample of rows. The
error is scaled by the weight's energy under the metric, and the bytes by rows, but for what does not grow with
rows (codebooks, column scales): that is told from how much less half the rows take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fulgurite.allocation.curve import Candidate
from fulgurite.allocation.slopes import Effect, mean_effect
from fulgurite.allocation.statistics import spread
from fulgurite.calibration import Metric
from fulgurite.codecs import Codec, decode
from fulgurite.threads import side_by_side

_STARVED = 0.1  # bits per weight; the sides of a sample take more
_LEAST_ROWS = 16  # however wide a weight is: fewer tell little of a codec that adapts


@dataclass(frozen=True)
class Measured:
    """Candidates of one weight, in the order of its codecs, and the effects that were probed.

    Args:
        candidates: Bytes and distortion of the whole weight.
        sampled: Whether they were measured on some of its rows.
        effects: In the order in which they were probed.
    """

    candidates: tuple[Candidate[Codec], ...]
    sampled: bool
    effects: tuple[Effect, ...] = ()


Losses = Callable[[Tensor], Sequence[float]]
"""A replacement of the whole weight -> what it costs the network on each batch, nats per position."""


def measure(
    weight: Tensor,
    codecs: Sequence[Codec],
    metric: Metric = Metric(),  # noqa: B008 (frozen)
    *,
    most: int = 1 << 16,
    losses: Losses | None = None,
    probe_bits: float = 2.0,
) -> Measured:
    """Bytes and distortion of each codec on one weight, and its effect on the network where that is asked.

    Args:
        weight: As ``Codec.encode`` takes it.
        codecs: The candidates; encoded by their drafts.
        metric: What an error costs; ``hessian`` and ``row_weight`` of ``encode``.
        most: Weights to measure on at most, at least 16 rows; fewer than there are make a sample of rows.
        losses: Runs the network with a replacement; called once or twice, with the sampled rows replaced.
        probe_bits: The candidate next to so many bits per weight is probed first.

    Raises:
        ValueError: If the weight is not finite, or a metric does not fit it.
    """
    if not all(codec.rows_alike for codec in codecs):
        most = weight.numel()
    sample = _Sample(weight, metric, most)
    fixed: dict[str, int] = {}
    candidates, decoded = [], []
    drafts = [codec.draft() for codec in codecs]
    coded = side_by_side(sample.coded, drafts, None if all(codec.one_thread for codec in codecs) else 1)
    for codec, draft, (num_bytes, rebuilt) in zip(codecs, drafts, coded, strict=True):
        if codec.name not in fixed:
            fixed[codec.name] = sample.fixed_bytes(draft)
        whole = sample.whole_bytes(num_bytes, fixed[codec.name])
        candidates.append(
            candidate_of(
                codec, whole, sample.whole_error(rebuilt), numel=weight.numel(), sampled=sample.is_part
            )
        )
        decoded.append(rebuilt)
    if losses is None:
        return Measured(tuple(candidates), sample.is_part)

    def effect(index: int) -> Effect:
        found = losses(sample.replaced(decoded[index]))
        return mean_effect(candidates[index].num_bytes, sample.error(decoded[index]), found)

    effects = _probed(candidates, weight.numel(), probe_bits, effect)
    return Measured(tuple(candidates), sample.is_part, tuple(effects))


def candidate_of(
    codec: Codec, num_bytes: int, distortion: float, *, numel: int, sampled: bool
) -> Candidate[Codec]:
    """A measured point of a whole weight's curve.

    A codec of any rate that coded a sample stands for the rate that the whole weight would have with that
    distortion: less of it goes to what does not grow with rows.
    """
    asked = codec.at_rate(8 * num_bytes / numel) if sampled else None
    return Candidate(codec if asked is None else asked, num_bytes, distortion)


def _probed(
    candidates: Sequence[Candidate[Codec]], numel: int, bits: float, effect: Callable[[int], Effect]
) -> list[Effect]:
    """The effect of the candidate next to so many bits, and of another where the first tells nothing.

    Within the noise the coarsest candidate shows more; far from the reference one of two bits more is nearer.
    """
    usable = [index for index, candidate in enumerate(candidates) if candidate.distortion > 0]
    if not usable:
        return []

    def next_to(wanted: float) -> int:
        return min(usable, key=lambda index: abs(8 * candidates[index].num_bytes / numel - wanted))

    first = next_to(bits)
    effects = {first: effect(first)}
    if not (effects[first].seen and effects[first].linear):
        coarsest = max(usable, key=lambda index: candidates[index].distortion)
        second = next_to(bits + 2) if not effects[first].linear else coarsest
        if second not in effects:
            effects[second] = effect(second)
    finite = [one for one in effects.values() if math.isfinite(one.loss)]
    if not finite:
        raise ValueError("the network's outputs are not finite with this weight coded, so it has no slope")
    return finite


class _Sample:
    """Evenly spaced rows of a weight, and how they stand for the whole."""

    def __init__(self, weight: Tensor, metric: Metric, most: int) -> None:
        self._whole, self._metric = weight.detach(), metric
        count = 1 if weight.dim() < 2 else len(weight)
        rows = max(_LEAST_ROWS, most // (weight.numel() // count))
        self._rows = spread(count, rows, weight.device) if count > rows else None
        self._share = 1.0
        self._values = self._whole
        if self._rows is not None:
            self._share = len(self._rows) / count
            self._values = self._whole[self._rows]
            self._metric = _of_rows(metric, self._rows)
        energy = _cost(self._metric, self._values)
        self._growth = _cost(metric, self._whole) / energy if energy > 0 else 1 / self._share

    @property
    def is_part(self) -> bool:
        """Whether rows were left out."""
        return self._rows is not None

    def coded(self, codec: Codec) -> tuple[int, Tensor]:
        """Bytes of the sampled rows, and what they decode to."""
        encoded = codec.encode(self._values, self._metric.hessian, self._metric.row_weight)
        return encoded.num_bytes, decode(encoded)

    def fixed_bytes(self, codec: Codec) -> int:
        """Bytes that do not grow with rows: from what the rows take, and half of them.

        A codec of any rate would spend the same bits per weight on both, so it is asked for fewer than it needs.
        """
        if self._rows is None:
            return 0
        starved = codec.at_rate(_STARVED)
        codec = codec if starved is None else starved
        total = len(self._rows)
        half = torch.arange(total // 2, device=self._rows.device)
        metric = _of_rows(self._metric, half)
        more = codec.encode(self._values, self._metric.hessian, self._metric.row_weight).num_bytes
        less = codec.encode(self._values[half], metric.hessian, metric.row_weight).num_bytes
        return max(0, round((less * total - more * len(half)) / (total - len(half))))

    def whole_bytes(self, num_bytes: int, fixed: int) -> int:
        """Bytes of the whole weight."""
        fixed = min(fixed, num_bytes)
        return fixed + round((num_bytes - fixed) / self._share)

    def error(self, rebuilt: Tensor) -> float:
        """Cost of the sampled rows' error."""
        return _cost(self._metric, self._values.float() - rebuilt.float())

    def whole_error(self, rebuilt: Tensor) -> float:
        """Cost of the whole weight's error, were it all like the sample."""
        return self.error(rebuilt) * self._growth

    def replaced(self, rebuilt: Tensor) -> Tensor:
        """The whole weight with the sampled rows replaced."""
        if self._rows is None:
            return rebuilt
        whole = self._whole.clone()
        whole[self._rows] = rebuilt.to(whole)
        return whole


def _of_rows(metric: Metric, rows: Tensor) -> Metric:
    if metric.row_weight is None:
        return metric
    return replace(metric, row_weight=metric.row_weight[rows.to(metric.row_weight.device)])


def _cost(metric: Metric, error: Tensor) -> float:
    cost = metric.cost(error.reshape(1, -1) if error.dim() < 2 else error.flatten(1))
    if not math.isfinite(cost):
        raise ValueError(f"the cost of an error must be finite, got {cost}")
    return max(cost, 0.0)  # a moment is positive semidefinite; below 0 is rounding
