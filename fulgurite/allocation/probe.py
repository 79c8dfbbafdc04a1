r"""Run a network with one weight replaced, and compare it with itself.

batches -> network -> reference outputs (kept while they are small)
        \-> network with one weight replaced -> divergence for each batch
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Divergence = Callable[[Any, Any, Mapping[str, Tensor]], Tensor]

_KEPT = 256 << 20  # bytes of reference outputs: beyond it they are computed anew for each weight


class Probe:
    """What replacing a weight does to a network's outputs.

    Args:
        network: In eval mode; its weights are as before after every call.
        batches: Keyword arguments of the network, on its device.
        divergence: ``(outputs, reference outputs, batch)`` to how far they are apart, nats per position.
        offsets: What to add to what replaces a weight, by name; of deltas, what they are over.
        kept_bytes: Reference outputs to keep at most.

    Raises:
        ValueError: If there is no batch.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Sequence[Mapping[str, Tensor]],
        divergence: Divergence,
        *,
        offsets: Mapping[str, Tensor] | None = None,
        kept_bytes: int = _KEPT,
    ) -> None:
        if not batches:
            raise ValueError("batches must hold at least one batch, got none")
        self._network = network
        self._parameters = dict(network.named_parameters(remove_duplicate=False))
        self._batches = batches
        self._divergence = divergence
        self._offsets = offsets or {}
        self._room = kept_bytes
        self._references: dict[int, Any] = {}
        self._seen = 0

    @torch.no_grad()
    def losses(self, name: str, replacement: Tensor) -> list[float]:
        """Divergence on each batch with ``replacement`` in the place of one weight, tied uses included.

        Raises:
            KeyError: If the network has no parameter of that name.
        """
        if name in self._offsets:
            replacement = replacement + self._offsets[name]
        exact = self._read(name)
        self._keep_references()
        found = [math.nan] * len(self._batches)
        alone = [[index] for index in range(len(found)) if index not in self._references]
        for group in [list(self._references), *alone] if self._references else alone:
            references = [self._reference(index) for index in group]
            self._write(name, replacement)  # seldom: of a network in parts it takes all processes
            try:
                for index, reference in zip(group, references, strict=True):
                    batch = self._batches[index]
                    found[index] = float(self._divergence(self._network(**batch), reference, batch))
            finally:
                self._write(name, exact)
        return found

    def _read(self, name: str) -> Tensor:
        """A copy of a parameter."""
        return self._parameters[name].detach().clone()

    def _write(self, name: str, value: Tensor) -> None:
        self._parameters[name].copy_(value)

    def _keep_references(self) -> None:
        """The reference outputs that there is room for; the others are computed anew for each weight."""
        for index in range(self._seen, len(self._batches)):
            outputs = self._reference(index)
            if (size := _num_bytes(outputs)) <= self._room:
                self._room -= size
                self._references[index] = outputs
        self._seen = len(self._batches)

    def _reference(self, index: int) -> Any:
        if index in self._references:
            return self._references[index]
        return _comparable(self._network(**self._batches[index]))


def _comparable(outputs: Any) -> Any:
    """The outputs without what is no data, such as a cache of keys and values."""
    if not isinstance(outputs, Mapping):
        return outputs
    kept = {
        key: value for key, value in outputs.items() if isinstance(value, Tensor | Mapping | tuple | list)
    }
    return type(outputs)(**kept)


def _num_bytes(outputs: Any) -> int:
    if isinstance(outputs, Tensor):
        return outputs.numel() * outputs.element_size()
    if isinstance(outputs, Mapping):
        return sum(map(_num_bytes, outputs.values()))
    return sum(map(_num_bytes, outputs)) if isinstance(outputs, tuple | list) else 0
