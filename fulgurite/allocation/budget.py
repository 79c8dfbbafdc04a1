"""What an allocation has to meet: bytes, bits per weight, or a loss; and bytes as people write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
}
_AMOUNT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(amount: str | int, where: str = "budget") -> int:
    """Bytes from a number with a unit; kB, MB and GB are decimal, KiB, MiB and GiB binary.

    Args:
        amount: Such as ``"0.4MB"``, ``"380 KiB"`` or a plain number of bytes.
        where: How errors call it.

    Returns:
        Whole bytes, rounded down.

    Raises:
        ValueError: If it is no amount of bytes, or less than one.

    Example:
        >>> parse_bytes("0.4MB"), parse_bytes("400kB"), parse_bytes("380 KiB"), parse_bytes(400_000)
        (400000, 400000, 389120, 400000)
    """
    match = None if isinstance(amount, bool) else _AMOUNT.fullmatch(str(amount))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(
            f"{where} must be bytes, with B, kB, MB, GB, KiB, MiB or GiB, such as 0.4MB or 380 KiB, got {amount!r}"
        )
    # through the shortest decimal: 0.29 * 100 would come out as 28.999...
    num_bytes = float(f"{float(match[1]) * _UNITS[match[2].lower()]:.12g}")
    if not 1 <= num_bytes < math.inf:
        raise ValueError(f"{where} must be at least 1 byte, and finite, got {amount!r}")
    return int(num_bytes)


@dataclass(frozen=True)
class Target:
    """One of three things to meet; the other two are what comes of it.

    Args:
        num_bytes: Bytes at most, those that are held in reserve included.
        bits_per_weight: Bits at most over all weights of the curves, the reserve apart.
        max_loss: Largest sum of ``slope * distortion``.

    Raises:
        ValueError: If not exactly one is given, or it is not above 0.
    """

    num_bytes: int | None = None
    bits_per_weight: float | None = None
    max_loss: float | None = None

    def __post_init__(self) -> None:
        given = {key: value for key, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                "exactly one of num_bytes, bits_per_weight and max_loss must be given, "
                f"got {', '.join(given) or 'none'}"
            )
        for key, value in given.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{key} must be above 0 and finite, got {value}")
