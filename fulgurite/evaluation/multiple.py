"""Several tests read at once: p-values corrected so that the chance of one false rejection among all is kept.

Reference: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979, https://www.jstor.org/stable/4615733.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the chance of one false rejection among all is kept.

    Args:
        p_values: One for each comparison; those without a value take no part.

    Returns:
        Corrected p-values in the same order.

    Raises:
        ValueError: If a value lies outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    known = [(value, place) for place, value in enumerate(p_values) if value is not None]
    for value, _ in known:
        if not 0 <= value <= 1:
            raise ValueError(f"p-values must be in [0, 1], got {value}")
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, place) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        corrected[place] = largest
    return corrected
