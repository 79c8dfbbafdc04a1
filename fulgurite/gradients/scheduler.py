"""How coarse gradients are coded: a threshold that follows the trend of CAQ, within bounds.

CAQ of each step -> trend (moving average of its logarithm) -> below what is asked: coarser; above: finer
error of each step -> beyond what is allowed: finer at once, whatever CAQ says
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_MOST_CHANGE = 0.25  # of the threshold's logarithm in one step
_NEAR = 0.95  # of the error allowed: no coarser from there on


def caq(ratio: float, cpu_seconds: float) -> float:
    """Compression per cost: ``ratio / (cpu seconds + 1)``.

    Example:
        >>> caq(8.0, 0.25)
        6.4
    """
    return ratio / (cpu_seconds + 1)


@dataclass
class CaqScheduler:
    """Move the step of the quantiser, and the pruning threshold with it, towards a CAQ.

    Error feedback makes up for what a code leaves out only if each step sends something of it: the code must be
    contractive, ``|p - D(C(p))|^2 <= most_error * |p|^2`` with ``most_error`` below 1.

    Args:
        target: CAQ to hold.
        step: Of the quantiser to begin with, in units of a tensor's root mean square.
        least: Of the step.
        most: Of the step.
        most_error: Largest share of the energy that a step may leave out.
        gain: Share of the distance to the target, in logarithms, that is corrected in a step.
        momentum: Of the moving average.

    Raises:
        ValueError: If a number is out of range.
    """

    target: float
    step: float = 1.0
    least: float = 1e-3
    most: float = 64.0
    most_error: float = 0.98
    gain: float = 0.5
    momentum: float = 0.5
    trend: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.step <= self.most:
            raise ValueError(
                f"expected 0 < least <= step <= most, got {self.least}, {self.step} and {self.most}"
            )
        if self.target <= 0:
            raise ValueError(f"target must be above 0, got {self.target}")
        if not 0 < self.most_error < 1:
            raise ValueError(f"most_error must be in (0, 1), got {self.most_error}")
        if not 0 < self.gain <= 1 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"gain must be in (0, 1] and momentum in [0, 1), got {self.gain} and {self.momentum}"
            )

    def update(self, found: float, error: float) -> None:
        """Take a step's CAQ and the share of the energy that it left out.

        Args:
            found: CAQ of the step.
            error: ``|p - D(C(p))|^2 / |p|^2``.
        """
        if not (math.isfinite(found) and math.isfinite(error)) or found <= 0:
            return  # nothing was sent
        level = math.log(found)
        self.trend = level if self.trend is None else self.momentum * self.trend + (1 - self.momentum) * level
        change = self.gain * (math.log(self.target) - self.trend)
        change = max(-_MOST_CHANGE, min(_MOST_CHANGE, change))
        if error > self.most_error:
            change = -_MOST_CHANGE
        elif error > _NEAR * self.most_error:
            change = min(change, 0.0)
        self.step = min(self.most, max(self.least, self.step * math.exp(change)))

    def state_dict(self) -> dict[str, float | None]:
        """What a resumed training goes on with."""
        return {"step": self.step, "trend": self.trend}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from ``state_dict``."""
        step = state["step"]
        self.step = min(self.most, max(self.least, self.step if step is None else step))
        self.trend = state["trend"]
