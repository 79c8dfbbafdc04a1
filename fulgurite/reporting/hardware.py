"""The smallest class of hardware that a network runs well on, from what a pass was measured to take.

peak memory of a pass + PyTorch itself -> class by memory;  time of a pass over LIMIT -> the same with an accelerator
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fulgurite.reporting.units import format_bytes

RUNTIME_BYTES = 800_000_000
"""Python with PyTorch and a class of transformers, no network loaded: 776 MB resident on Linux, rounded up."""

LATENCY_LIMIT_MS = 100.0
"""Time of a pass from which people wait for an answer (Nielsen, "Usability Engineering", 1993, section 5.5)."""

_SYSTEM_SHARE = 0.25  # of a machine's memory that others have
_CLASSES = (
    ("single-board computer with 2 GB", 2e9),
    ("phone or single-board computer with 4 GB", 4e9),
    ("laptop with 16 GB", 16e9),
    ("workstation with 64 GB", 64e9),
    ("server with 256 GB", 256e9),
)
_ACCELERATORS = (8e9, 16e9, 24e9, 48e9, 80e9, 141e9)


def recommend_hardware(efficiency: Mapping[str, Any]) -> dict[str, Any]:
    """Recommend a class.

    Args:
        efficiency: ``peak_memory_bytes``, ``latency_p50_ms`` and ``device`` as measured.

    Returns:
        ``class``, ``memory_bytes`` needed with PyTorch itself, and ``why`` in words.
    """
    needed = int(efficiency["peak_memory_bytes"]) + RUNTIME_BYTES
    fitting = [name for name, memory in _CLASSES if needed <= (1 - _SYSTEM_SHARE) * memory]
    name = fitting[0] if fitting else "several servers"
    latency, device = efficiency["latency_p50_ms"], efficiency["device"]
    shown = f"{latency:,.0f}" if latency >= 100 else f"{latency:.3g}"
    why = (
        f"a pass takes {format_bytes(efficiency['peak_memory_bytes'])} at its peak, "
        f"{format_bytes(needed)} with PyTorch itself, and {shown} ms on {device}"
    )
    if latency > LATENCY_LIMIT_MS or device != "cpu":
        cards = [
            size for size in _ACCELERATORS if efficiency["peak_memory_bytes"] <= (1 - _SYSTEM_SHARE) * size
        ]
        card = f"an accelerator of {cards[0] / 1e9:.0f} GB" if cards else "several accelerators"
        slow = f"over {LATENCY_LIMIT_MS:g} ms" if device == "cpu" else "where it was measured"
        name, why = f"{name} and {card}", f"{why}: {slow}"
    return {"class": name, "memory_bytes": needed, "why": why}
