"""Numbers as people read them: bytes, ratios, percentages, scores, times.

One place, so that the terminal, the plots and the report say the same thing. A value that is not known
(``None``) is a dash.
"""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = "-"

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))  # decimal: MB is 10^6


def format_bytes(num_bytes: float | None) -> str:
    """Three figures and a decimal unit.

    Example:
        >>> format_bytes(24_061_440), format_bytes(999_999), format_bytes(512)
        ('24.1 MB', '1.00 MB', '512 B')
    """
    if num_bytes is None:
        return UNKNOWN
    for unit, size in _UNITS:
        if num_bytes >= 0.9995 * size:  # 999.6 kB would be "1000 kB"
            value = num_bytes / size
            decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{decimals}f} {unit}"
    return f"{num_bytes:.0f} B"


def format_ratio(ratio: float | None) -> str:
    """How many times smaller: ``7.9x``."""
    return UNKNOWN if ratio is None else f"{ratio:.1f}x"


def format_number(value: float | None, decimals: int = 2) -> str:
    """A plain number."""
    return UNKNOWN if value is None else f"{value:.{decimals}f}"


def format_percent(fraction: float | None) -> str:
    """A fraction in per cent: 0.961 is ``96.1 %``."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.1f} %"


def format_retained(retention: float | None, low: float | None = None, high: float | None = None) -> str:
    """A retention with its interval, or with its lower bound where there is no upper one.

    Example:
        >>> format_retained(0.961, 0.957), format_retained(0.961, 0.957, 0.966)
        ('96.1 % (at least 95.7 %)', '96.1 % [95.7, 96.6]')
    """
    point = format_percent(retention)
    if retention is None or low is None:
        return point
    if high is None:
        return f"{point} (at least {format_percent(low)})"
    return f"{point} [{100 * low:.1f}, {100 * high:.1f}]"


def format_score(value: float | None, unit: str) -> str:
    """A score in its unit; in ``%`` scores are fractions.

    Example:
        >>> format_score(0.2413, "%"), format_score(1.6061, "bits/byte")
        ('24.1 %', '1.606 bits/byte')
    """
    if unit == "%":
        return format_percent(value)
    return UNKNOWN if value is None else f"{value:.3f} {unit}".rstrip()


def format_time(seconds: float | None) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> format_time(41.2), format_time(3723)
        ('0:41', '1:02:03')
    """
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_list(parts: Sequence[str]) -> str:
    """Join with commas and a last ``and``.

    Example:
        >>> format_list(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
