"""Where the time and the memory of a forward pass go, operator by operator.

network, batch -> warm-up -> torch.profiler over some passes -> top operators -> table
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.calibration import evaluating


@dataclass(frozen=True)
class Operator:
    """One kind of operator in a mean forward pass.

    Args:
        name: As torch calls it.
        calls: In a pass.
        self_ms: Milliseconds in it, without what it calls.
        share: Of all operators' own time.
        device_ms: Milliseconds on the accelerator, without what it calls; 0 without one.
        self_bytes: Bytes that it takes less those that it gives back.
    """

    name: str
    calls: float
    self_ms: float
    share: float
    device_ms: float
    self_bytes: int


@dataclass(frozen=True)
class Profile:
    """Operators of a forward pass, the slowest first.

    Args:
        total_ms: All operators' own time, milliseconds a pass.
        passes: That were measured.
        threads: Of torch.
        device: The network's.
        operators: The first by time, and those of most memory that are not among them.
        others: Operators that are left out.
    """

    total_ms: float
    passes: int
    threads: int
    device: str
    operators: tuple[Operator, ...]
    others: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def profile_network(
    network: nn.Module, batch: Mapping[str, Tensor], *, passes: int = 5, top: int = 12
) -> Profile:
    """Profile forward passes, after one that is not counted.

    Args:
        network: Called as ``network(**batch)``.
        batch: On the network's device.
        passes: To measure.
        top: Operators to list by time, and by memory.

    Raises:
        ValueError: If a number is below 1.
    """
    from torch.profiler import ProfilerActivity, profile

    for name, value in (("passes", passes), ("top", top)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    device = next((tensor.device for tensor in batch.values()), torch.device("cpu"))
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with evaluating(network), torch.inference_mode():
        network(**batch)
        with profile(activities=activities, profile_memory=True) as seen:
            for _ in range(passes):
                network(**batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    events: Any = seen.key_averages()
    whole = sum(event.self_cpu_time_total + event.self_device_time_total for event in events) or 1.0
    found = [
        Operator(
            name=str(event.key),
            calls=event.count / passes,
            self_ms=event.self_cpu_time_total / passes / 1000,
            share=(event.self_cpu_time_total + event.self_device_time_total) / whole,
            device_ms=event.self_device_time_total / passes / 1000,
            self_bytes=round(
                (
                    event.self_cpu_memory_usage
                    + (event.self_device_memory_usage if device.type == "cuda" else 0)
                )
                / passes
            ),
        )
        for event in events
        # memory that is given back outside of operators has a line of its own
        if not str(event.key).startswith("[")
    ]
    by_time = sorted(found, key=lambda one: -one.share)
    chosen = by_time[:top]
    greedy = sorted(found, key=lambda one: -one.self_bytes)[:top]
    chosen += [one for one in greedy if one not in chosen and one.self_bytes > 0]
    return Profile(
        total_ms=whole / passes / 1000,
        passes=passes,
        threads=torch.get_num_threads(),
        device=str(device),
        operators=tuple(chosen),
        others=len(found) - len(chosen),
    )
