"""What a network costs: size, arithmetic, time and memory.

    network, batch -> operations counted -> timed passes -> one pass with its allocations watched -> Efficiency

Floating-point operations are those of matrix products, convolutions and attention, a multiplication and an addition
being two; PyTorch counts them. What it runs as one operation of its own and would not count (the fast path of
``nn.MultiheadAttention``) is taken apart while it counts.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from fulgurite.evaluation.benchmarks.running import running

_QUIET = "KINETO_LOG_LEVEL"


@dataclass(frozen=True)
class Efficiency:
    """What a network costs on the machine that it was measured on.

    Args:
        parameters: Numbers that it has learned, shared ones once.
        num_bytes: Of its file.
        flops: Floating-point operations of one item.
        latency_p50_ms: Median time of a batch.
        latency_p90_ms: Time that nine of ten batches keep to.
        latency_p99_ms: Time that 99 of 100 keep to; with fewer repeats, close to the longest.
        items_per_second: Of all timed passes.
        peak_memory_bytes: At the peak of a pass. On a CPU the weights, the batch, and what PyTorch allocated in the
            pass; on CUDA ``max_memory_allocated``, all that PyTorch holds there.
        batch_size: Items of a pass.
        threads: Of the CPU that PyTorch may use.
        device: Such as ``cpu``.
    """

    parameters: int
    num_bytes: int
    flops: float
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    items_per_second: float
    peak_memory_bytes: int
    batch_size: int
    threads: int
    device: str

    @property
    def facts(self) -> dict[str, float]:
        """All but the device, as plain numbers."""
        return {name: float(value) for name, value in vars(self).items() if name != "device"}


def measure_efficiency(
    network: nn.Module, batch: Mapping[str, Tensor], *, num_bytes: int, repeats: int = 20, warmup: int = 3
) -> Efficiency:
    """Measure what passes over one batch cost, in eval mode without gradients.

    Args:
        network: Called with the batch as keyword arguments.
        batch: Of equally many items, where the network is.
        num_bytes: Of the network's file; nothing here knows of files.
        repeats: Timed passes.
        warmup: Passes before them.

    Raises:
        ValueError: If the batch is empty or uneven, or a number is out of range.
    """
    sizes = {name: len(values) for name, values in batch.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"batch must have tensors of as many items, at least one, got {sizes}")
    if repeats < 1 or warmup < 0:
        raise ValueError(
            f"repeats must be at least 1 and warmup at least 0, got repeats={repeats} and warmup={warmup}"
        )
    items = next(iter(sizes.values()))
    device = next(iter(batch.values())).device

    def once() -> None:
        network(**batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with running(network):
        flops = count_flops(once)
        for _ in range(warmup):
            once()
        times = np.array([_seconds(once) for _ in range(repeats)])
        held = [*network.parameters(), *network.buffers(), *batch.values()]
        peak = _peak_on_cuda(once, device) if device.type == "cuda" else _peak_on_cpu(once, held)
    p50, p90, p99 = 1000 * np.percentile(times, [50, 90, 99])
    return Efficiency(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_bytes=num_bytes,
        flops=flops / items,
        latency_p50_ms=float(p50),
        latency_p90_ms=float(p90),
        latency_p99_ms=float(p99),
        items_per_second=items * repeats / float(times.sum()),
        peak_memory_bytes=peak,
        batch_size=items,
        threads=torch.get_num_threads(),
        device=str(device),
    )


def count_flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of whatever a call computes."""
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton with it, which takes its time

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # as plain products attention counts alike on all devices
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _peak_on_cuda(call: Callable[[], None], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return int(torch.cuda.max_memory_allocated(device))


def _peak_on_cpu(call: Callable[[], None], held: list[Tensor]) -> int:
    """Bytes held before, and the most that was allocated at a time.

    Not the process's resident memory: what came before, and pages that were never given back, would count with it.
    """
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"
    )
    allocated = np.cumsum([size for _, size in changes])
    return _bytes(held) + int(allocated.max(initial=0))


def _bytes(tensors: list[Tensor]) -> int:
    """Of the memory behind tensors, shared memory once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Starting up, the profiler would tell of every device that is not there."""
    before = os.environ.get(_QUIET)
    os.environ.setdefault(_QUIET, "99")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_QUIET, None)
