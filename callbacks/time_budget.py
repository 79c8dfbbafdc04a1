"""A budget of time: no try is begun that would not end within it, by what tries have taken so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fulgurite.reporting.units import format_time


class TimeBudget:
    """Knows when to stop.

    Args:
        minutes: In all, from now; ``None`` for any time.
    """

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._started = time.monotonic()
        self._last: Mapping[str, float | None] = {}

    def took(self, outcome: Mapping[str, Any]) -> None:
        """A try was made in these ``seconds``, now or by an earlier start."""
        self._last = dict(outcome["seconds"])

    def expected(self, longer_refinement: float = 1.0) -> float:
        """Seconds that the next try is expected to take; 0 while there was none.

        Args:
            longer_refinement: How many times the steps of the last one it refines.
        """
        last = {part: seconds or 0.0 for part, seconds in self._last.items()}
        return sum(last.values()) + (longer_refinement - 1) * last.get("refine", 0.0)

    def refusal(self, longer_refinement: float = 1.0) -> str | None:
        """Why no further try is begun; ``None`` where there is time for one."""
        if self._minutes is None:
            return None
        left = 60 * self._minutes - (time.monotonic() - self._started)
        if left <= 0:
            return f"the time budget of {self._minutes:g} minutes is spent"
        wanted = self.expected(longer_refinement)
        if wanted <= left:
            return None
        return (
            f"the time budget of {self._minutes:g} minutes has {format_time(left)} left, "
            f"and a try takes about {format_time(wanted)}"
        )
