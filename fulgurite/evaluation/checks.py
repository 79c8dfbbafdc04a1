"""Checks of a network by itself, not against a reference: a share that must lie within bounds.

share, items -> Check: below, within or above, and whether that is sure -> one sentence

Edge of chaos: the accuracy on a chosen set stays within [0.70, 0.80]; below it the network has lost too much, above it
the set is too easy to show a loss, and the two are told apart. Alignment: the share of pairs whose aligned end is
preferred is at least 0.65, after the last stage 0.60.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fulgurite.evaluation.measure import Measure, is_binary
from fulgurite.evaluation.statistics import standard_error

State = Literal["below", "within", "above", "unknown"]

EDGE_OF_CHAOS = (0.70, 0.80)
ALIGNMENT_LEAST, ALIGNMENT_LEAST_LAST = 0.65, 0.60
_Z = 1.959964  # of a normal distribution, 95 % in the middle


@dataclass(frozen=True)
class Check:
    """A share and its bounds.

    Args:
        name: What was checked.
        value: The share; ``None`` where the network diverged.
        low: Lower end of its 95 % interval.
        high: Upper end.
        least: It must not be below.
        most: It must not be above; 1 where there is no such bound.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    least: float
    most: float = 1.0

    @property
    def state(self) -> State:
        """Where the share lies; ``unknown`` where there is none."""
        if self.value is None:
            return "unknown"
        if self.value < self.least:
            return "below"
        return "above" if self.value > self.most else "within"

    @property
    def passed(self) -> bool:
        """Whether it lies within."""
        return self.state == "within"

    @property
    def sure(self) -> bool:
        """Whether all of the interval lies where the share does."""
        if self.low is None or self.high is None:
            return False
        if self.state == "below":
            return self.high < self.least
        return (
            self.low > self.most
            if self.state == "above"
            else self.least <= self.low and self.high <= self.most
        )

    @property
    def sentence(self) -> str:
        """What was found, with its numbers."""
        one_sided = self.most >= 1
        wanted = f"at least {self.least:.2f}" if one_sided else f"{self.least:.2f} to {self.most:.2f}"
        if self.value is None:
            return f"{self.name}: the network diverged, wanted {wanted}"
        found = f"{self.state} {wanted}"
        if one_sided:
            found = wanted if self.passed else f"below {self.least:.2f}"
        how = "" if self.sure else ", not surely"
        return f"{self.name}: {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] is {found}{how}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "state": self.state, "passed": self.passed, "sure": self.sure}


def check_share(name: str, value: float, count: float, *, least: float, most: float = 1.0) -> Check:
    """Check a share of ``count`` items, with Wilson's interval.

    ``count`` may be an effective number: of as many items, right or wrong, as would be as exact.

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.

    Raises:
        ValueError: If the bounds are not ``0 <= least <= most <= 1``, or there are no items.
    """
    if not 0 <= least <= most <= 1:
        raise ValueError(f"{name}: bounds must be 0 <= least <= most <= 1, got {least} and {most}")
    if count < 1:
        raise ValueError(f"{name}: a share needs at least one item, got {count}")
    if not math.isfinite(value):
        return Check(name, None, None, None, least, most)
    scale = 1 + _Z**2 / count
    middle = (value + _Z**2 / (2 * count)) / scale
    half = _Z / scale * math.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2))
    return Check(name, value, max(0.0, middle - half), min(1.0, middle + half), least, most)


def edge_of_chaos(measure: Measure, least: float = EDGE_OF_CHAOS[0], most: float = EDGE_OF_CHAOS[1]) -> Check:
    """Check the accuracy on a chosen set.

    Raises:
        ValueError: If the measure is no accuracy, or the bounds are none.
    """
    if measure.unit != "%" or not measure.higher_is_better or measure.targets is not None:
        raise ValueError(
            f"edge of chaos: expected a benchmark of choices, got {measure.name} in {measure.unit}"
        )
    return check_share("edge_of_chaos", measure.value, effective_count(measure), least=least, most=most)


def effective_count(measure: Measure) -> float:
    """How many items, right or wrong, tell a share as exactly: where an item holds many answers, or weighs more."""
    count, value = measure.items.size, measure.value
    if is_binary(measure) or count < 2 or not 0 < value < 1:
        return count
    error = standard_error(measure)
    return max(1.0, value * (1 - value) / error**2) if error > 0 else count
