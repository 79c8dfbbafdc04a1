"""Who gets more bits: by what a loss measures, or by what a weight is like.

`slope` takes curves as they were measured. The others keep their bytes and put a model in the place of the
distortion, ``D = numel * s * 2^(-2R)`` at ``R`` bits per weight, with another ``s`` for each strategy. The
same search over such curves gives equal ``s * 2^(-2R)`` where it can, so ``R = 1/2 log2 s`` and a constant: a
tensor with four times the ``s`` gets one bit more. That is reverse water-filling (Cover and Thomas, Elements of
Information Theory, 2nd edition, theorem 10.3.3), whose floor is the candidate with the fewest bytes.

| strategy | s |
| --- | --- |
| `uniform` | 1: the same bits for all |
| `variance` | mean square of the weights |
| `dimensionality` | the share of its dimensions that a weight uses (participation ratio) |
| `information` | its entropy power under the metric: mean square times flatness of the spectrum |
| `balanced` | the geometric mean of the last three: the mean of their bits |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from fulgurite.allocation.curve import C, Candidate, Curve
from fulgurite.allocation.statistics import Statistics

Strategy = Literal["slope", "uniform", "variance", "dimensionality", "information", "balanced"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_FLOOR = 1e-12  # of the largest: an all-zero weight gets the fewest bits there are


def modelled(
    curves: Sequence[Curve[C]], strategy: Strategy, statistics: Mapping[str, Statistics] | None = None
) -> list[Curve[C]]:
    """The curves that a strategy searches; those of `slope` are the measured ones.

    Of a mixture of codecs only what is on the measured hull is taken along, as the model cannot tell two codecs
    of equal bytes apart.

    Args:
        curves: As measured.
        strategy: One of ``STRATEGIES``.
        statistics: Of each tensor by name, for the strategies that need them.

    Raises:
        ValueError: If the strategy is not known.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if strategy == "slope":
        return list(curves)
    sizes = {
        curve.name: 1.0 if strategy == "uniform" else _size(strategy, (statistics or {})[curve.name])
        for curve in curves
    }
    least = _FLOOR * max(sizes.values(), default=0.0) or 1.0
    return [_modelled(curve, max(sizes[curve.name], least)) for curve in curves]


def _size(strategy: Strategy, known: Statistics) -> float:
    if strategy == "balanced":
        return math.cbrt(known.variance * known.dimensionality * known.information)
    size: float = getattr(known, strategy)
    return size


def _modelled(curve: Curve[C], size: float) -> Curve[C]:
    candidates = [
        Candidate(
            known.codec, known.num_bytes, curve.numel * size * 4.0 ** (-8 * known.num_bytes / curve.numel)
        )
        for known in curve.measured_hull()
    ]
    return replace(curve, candidates=tuple(candidates), slope=1.0)
