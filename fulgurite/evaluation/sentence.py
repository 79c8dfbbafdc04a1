"""A verdict in words: one sentence with the numbers that decided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.verdict import MeasureVerdict

_TESTS = {"mcnemar": "McNemar"}


def explain(
    stage: tuple[float, float, float],
    whole: tuple[float, float, float],
    under_floor: Sequence[MeasureVerdict],
    floor: float,
) -> str:
    """Say what was kept and what was needed; the whole and single measures only where they fail.

    Args:
        stage: Retention against the last accepted stage, its lower bound, and what was needed.
        whole: The same against the reference.
        under_floor: Measures whose lower bound is under ``floor``.
        floor: Retention needed on each measure.
    """
    parts = [f"retained {_kept(*stage[:2])}, needs {_short(stage[2])}"]
    if whole[1] < whole[2]:
        parts.append(f"of the reference {_kept(*whole[:2])}, needs {_short(whole[2])}")
    for m in under_floor:
        kept = _kept(m.retention, m.low)
        if m.floor_by == "test":  # the bound decides nothing there
            kept = f"{_percent(m.retention)} (the loss is real: {_TESTS.get(str(m.test), m.test)} p {m.p_holm:.2g})"
        parts.append(f"{m.name} keeps {kept}, no measure may be under {_short(floor)}")
    return "; ".join(parts)


def explain_divergence(diverged: Sequence[Measure]) -> str:
    """Say which measures of a network have no number."""
    lost = [f"{m.name} is not finite on {m.num_not_finite} of {m.items.size} items" for m in diverged]
    return "the network diverged: " + ", ".join(lost)


def explain_chance(reference: Sequence[Measure]) -> str:
    """Say that there is nothing to decide by."""
    names = ", ".join(measure.name for measure in reference)
    return f"no measure can decide: the reference itself is at chance on {names}"


def _percent(point: float | None) -> str:
    return "nothing" if point is None or not math.isfinite(point) else f"{100 * point:.1f} %"


def _kept(point: float | None, low: float | None) -> str:
    if point is None or not math.isfinite(point):
        return "nothing"
    if low is None or not math.isfinite(low):
        return f"{100 * point:.1f} % (no lower bound)"
    # rounded down, so that a bound that misses 98 % by a hair does not read 98.0 %
    return f"{100 * point:.1f} % (at least {math.floor(1000 * low + 1e-9) / 10:.1f} %)"


def _short(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"
