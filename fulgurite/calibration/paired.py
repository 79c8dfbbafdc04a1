"""What the same layer gets to see in two networks: the reference and one that stands in for it.

    batch -> reference -> hooks -> x  \
    batch -> network   -> hooks -> y   -> sums of x x^T, x y^T, y y^T, x, y -> PairedMoments

Layers are taken in the order in which they are called; those that read the same tensor make a group, such as queries,
keys and values, and share their moments. A pass ends where the last layer of its group was called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.calibration._watch import evaluating
from fulgurite.calibration.layers import seen

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class PairedMoments:
    """Second moments of a layer's inputs, ``x`` in the reference and ``y`` in the other network; float64.

    Args:
        reference: Mean of ``x x^T``, ``[in, in]``.
        cross: Mean of ``x y^T``, ``[in, in]``.
        own: Mean of ``y y^T``, ``[in, in]``.
        reference_mean: Mean of ``x``, ``[in]``.
        own_mean: Mean of ``y``, ``[in]``.
        count: Inputs that were seen.
    """

    reference: Tensor
    cross: Tensor
    own: Tensor
    reference_mean: Tensor
    own_mean: Tensor
    count: int

    def centred(self) -> PairedMoments:
        """The same of inputs whose means are taken off."""
        x, y = self.reference_mean, self.own_mean
        return PairedMoments(
            self.reference - torch.outer(x, x),
            self.cross - torch.outer(x, y),
            self.own - torch.outer(y, y),
            torch.zeros_like(x),
            torch.zeros_like(y),
            self.count,
        )


def call_groups(network: nn.Module, layers: Collection[str], batch: Batch) -> list[list[str]]:
    """Layers in the order of their calls, those that read one tensor together.

    Args:
        network: Called once, as ``network(**batch)``.
        layers: Names of ``nn.Linear`` and of ``nn.Conv2d`` without groups.
        batch: Its keyword arguments.

    Returns:
        Without the layers that are not called, or more than once.
    """
    calls: list[tuple[str, Tensor]] = []

    def see(name: str, inputs: Tensor) -> None:
        calls.append((name, inputs))  # held: an address that is free again would look like the same tensor

    with evaluating(network), torch.no_grad(), _inputs(network, layers, see):
        network(**batch)
    counts = Counter(name for name, _ in calls)
    groups: list[list[str]] = []
    last: Tensor | None = None
    for name, inputs in calls:
        if counts[name] > 1:
            continue
        if inputs is last:
            groups[-1].append(name)
        else:
            groups.append([name])
        last = inputs
    return groups


def gather_paired(
    reference: nn.Module,
    network: nn.Module,
    group: Collection[str],
    batches: Iterable[Batch],
    *,
    progress: Callable[[int], None] | None = None,
) -> PairedMoments:
    """Moments of the tensor that the layers of a group read, in both networks.

    Args:
        reference: Called as ``reference(**batch)``.
        network: With the same layers.
        group: Of ``call_groups``.
        batches: On the networks' device. Positions where ``attention_mask`` ``[batch, positions]`` is 0 do not count.
        progress: Called with the number of batches done after each.

    Raises:
        ValueError: If there is no batch, or it does not reach the layers.
    """
    sums: list[Tensor] | None = None
    count = 0
    for done, batch in enumerate(batches, start=1):
        x, y = (_rows(each, group, batch) for each in (reference, network))
        if sums is None:
            width = x.shape[1]
            sums = [x.new_zeros(width, width) for _ in range(3)] + [x.new_zeros(width) for _ in range(2)]
        for total, (left, right) in zip(sums, ((x, x), (x, y), (y, y)), strict=False):
            total.addmm_(left.T, right)
        sums[3] += x.sum(0)
        sums[4] += y.sum(0)
        count += len(x)
        if progress is not None:
            progress(done)
    if sums is None or count == 0:
        raise ValueError(f"expected calibration data that reaches {', '.join(group)}, found none")
    moments = [total.double() / count for total in sums]
    return PairedMoments(moments[0], moments[1], moments[2], moments[3], moments[4], count)


def _rows(network: nn.Module, group: Collection[str], batch: Batch) -> Tensor:
    """What the layers of a group read on one batch, ``[positions, in]``."""
    found: list[Tensor] = []
    first = next(iter(group))
    layer = network.get_submodule(first)

    def see(name: str, inputs: Tensor) -> None:
        found.append(seen(layer, inputs)[:, :, 0].flatten(0, 1))
        raise _Enough

    with evaluating(network), torch.no_grad(), _inputs(network, [first], see), suppress(_Enough):
        network(**batch)
    if not found:
        raise ValueError(f"expected calibration data that reaches {first}, found none")
    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() == 2 and mask.numel() == len(found[0]):
        return found[0][mask.bool().flatten()]
    return found[0]


@contextmanager
def _inputs(
    network: nn.Module, layers: Collection[str], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call ``see`` with the name and the input of each call of a layer."""

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(name, args[0] if args else next(iter(kwargs.values())))

        return hook

    handles = [
        network.get_submodule(name).register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Enough(Exception):
    """Ends a pass through a network at the layer that was asked for."""
