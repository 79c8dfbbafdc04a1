"""PyTorch's own communication hooks, with what they send counted: fp16, PowerSGD, and the plain all-reduce.

Reference: Vogels et al., "PowerSGD", NeurIPS 2019, https://arxiv.org/abs/1905.13727; PyTorch's ``ddp_comm_hooks``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from fulgurite.gradients.exchange import Bucket, Traffic

Hook = Callable[[Any, Bucket], torch.futures.Future[Tensor]]

_LEAST_GAIN = 2  # PowerSGD leaves a matrix alone that it would not halve


class CountedHook:
    """A hook of PyTorch with counts of its traffic; all of it goes round a ring.

    Args:
        hook: PyTorch's.
        state: Its state.
        size: Bytes that it sends of a tensor, given the tensor and the step.
        dense_steps: First steps that are not compressed.
    """

    def __init__(self, hook: Hook, state: Any, size: Callable[[Tensor], float], dense_steps: int = 0) -> None:
        self.traffic = Traffic()
        self.step = self.calls = 0
        self._hook, self._state, self._size, self._dense_steps = hook, state, size, dense_steps

    def __call__(self, state: object, bucket: Bucket) -> torch.futures.Future[Tensor]:
        """What the hook does."""
        self.calls += 1
        ranks = dist.get_world_size()
        around = 2 * (ranks - 1) / ranks
        gradients = bucket.gradients()
        dense = sum(4 * gradient.numel() for gradient in gradients)
        sent = dense if self.step < self._dense_steps else sum(map(self._size, gradients))
        counted = Traffic(
            payload_bytes=sent,
            dense_bytes=dense,
            wire_bytes=sent * around,
            dense_wire_bytes=dense * around,
            steps=int(bucket.is_last()),
            compressed_steps=int(bucket.is_last() and self.step >= self._dense_steps),
        )
        self.traffic = self.traffic.plus(counted)
        self.step += bucket.is_last()
        return self._hook(self._state, bucket)


def fp16() -> CountedHook:
    """Gradients rounded to 16 bits before they are summed."""
    return CountedHook(default_hooks.fp16_compress_hook, None, lambda gradient: 2 * gradient.numel())


def plain() -> CountedHook:
    """The all-reduce of float32."""
    return CountedHook(default_hooks.allreduce_hook, None, lambda gradient: 4 * gradient.numel())


def power_sgd(rank: int, dense_steps: int) -> CountedHook:
    """Low-rank factors of each matrix, with error feedback and a warm start; vectors as they are.

    Args:
        rank: Of the factors.
        dense_steps: First steps to send whole; PyTorch asks for 2 at least.

    Raises:
        ValueError: If the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    first = max(2, dense_steps)
    state = powerSGD_hook.PowerSGDState(
        process_group=None,
        matrix_approximation_rank=rank,
        start_powerSGD_iter=first,
        min_compression_rate=_LEAST_GAIN,
    )

    def size(gradient: Tensor) -> float:
        if gradient.dim() < 2:
            return 4 * gradient.numel()
        rows, columns = len(gradient), gradient[0].numel()
        factors = rank * (rows + columns)
        return 4 * (factors if _LEAST_GAIN * factors < rows * columns else rows * columns)

    return CountedHook(powerSGD_hook.powerSGD_hook, state, size, first)
