r"""What the same layers see in two networks: subspaces of their inputs, and how alike these are.

batch -> reference -> inputs of each layer --\
batch -> network   -> inputs of each layer ----> evenly spaced places -> moments, CKA -> LayerInputs
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.analysis.cka import LinearCKA
from fulgurite.analysis.subspaces import Closeness, moment_subspaces
from fulgurite.calibration import evaluating
from fulgurite.calibration.attention import fused_layers, opened
from fulgurite.calibration.layers import is_known, num_groups, seen

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerInputs:
    """The inputs that one weight is multiplied with, in both networks.

    Args:
        name: Of the weight.
        count: Inputs that were compared.
        subspaces: Of the directions with most energy.
        cka: Linear, debiased; NaN where an input does not vary.
        error: Squared difference as a share of the reference's energy.
    """

    name: str
    count: int
    subspaces: Closeness
    cka: float
    error: float


class _Layer:
    """Sums over the inputs of one layer in both networks."""

    def __init__(self) -> None:
        self.cka = LinearCKA()
        self.moments: tuple[Tensor, Tensor] | None = None
        self.lost = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.double()
        found = (x.T @ x, y.T @ y)
        if self.moments is None:
            self.moments = found
        else:
            self.moments[0].add_(found[0])
            self.moments[1].add_(found[1])
        self.lost += float((x - y).square().sum())
        self.cka.update(x, y)


def compare_inputs(
    reference: nn.Module,
    network: nn.Module,
    batches: Iterable[Batch],
    names: Collection[str],
    *,
    places: int = 512,
    energy: float = 0.9,
    rank: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[LayerInputs]:
    """Run both networks over the same batches and compare what their layers see.

    Args:
        reference: Called as ``reference(**batch)``.
        network: With the same layers.
        batches: Keyword arguments, on the networks' device. Where ``attention_mask`` ``[batch, positions]`` is 0 an
            input does not count.
        names: Of weights. Embeddings, whose inputs are tokens, and grouped convolutions have no entry.
        places: Inputs of a batch that are compared at most, evenly spaced: time goes with their number, and with the
            square of their width.
        energy: Share of the reference's energy that says how many directions count.
        rank: Take so many instead.
        progress: Called with the number of batches done after each.

    Raises:
        ValueError: If there is no batch, too few inputs, or a layer is called in one network only.
    """
    layers = {name: _Layer() for name in names}
    both = [_layers_of(one, names) for one in (reference, network)]
    done = 0
    with evaluating(reference), evaluating(network), torch.no_grad():
        for done, batch in enumerate(batches, start=1):
            left, right = (
                _inputs(one, found, batch, places)
                for one, found in zip((reference, network), both, strict=True)
            )
            if left.keys() != right.keys():
                only = sorted(left.keys() ^ right.keys())[0]
                raise ValueError(f"{only}: expected a layer that both networks call, one does not")
            for name, x in left.items():
                layers[name].add(x, right[name])
            if progress is not None:
                progress(done)
    if not done:
        raise ValueError("expected at least one batch of calibration data, found none")
    return [
        LayerInputs(
            name=name,
            count=layer.cka.count,
            subspaces=moment_subspaces(
                layer.moments[0].cpu().numpy(), layer.moments[1].cpu().numpy(), energy=energy, rank=rank
            ),
            cka=layer.cka.value,
            error=layer.lost / max(float(layer.moments[0].trace()), 1e-300),
        )
        for name, layer in layers.items()
        if layer.moments is not None
    ]


def _layers_of(network: nn.Module, names: Collection[str]) -> dict[nn.Module, str]:
    weights = dict(network.named_parameters(remove_duplicate=False))
    wanted: dict[Tensor | nn.Module, str] = {weights[name]: name for name in names if name in weights}
    return {
        layer: wanted[layer.weight]
        for layer in [*network.modules(), *fused_layers(network)]
        if is_known(layer)
        and not isinstance(layer, nn.Embedding)
        and num_groups(layer) == 1
        and layer.weight in wanted
    }


def _inputs(
    network: nn.Module, layers: Mapping[nn.Module, str], batch: Batch, places: int
) -> dict[str, Tensor]:
    """Inputs of each layer on one batch, ``[places, in]``, those of its first call."""
    found: dict[str, Tensor] = {}
    mask = batch.get("attention_mask")

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = layers[layer]
        if name in found:
            return
        rows = seen(layer, args[0] if args else next(iter(kwargs.values())))[:, :, 0].flatten(0, 1)
        if mask is not None and mask.dim() == 2 and mask.numel() == len(rows):
            rows = rows[mask.bool().flatten()]
        found[name] = rows[_spread(len(rows), places, rows.device)]

    with _hooked(layers, hook), opened({layer.weight: layer for layer in layers}):  # type: ignore[misc]
        network(**batch)
    return found


def _spread(count: int, most: int, device: torch.device) -> Tensor:
    """Evenly spaced places."""
    taken = min(count, most)
    return torch.arange(taken, device=device) * count // max(taken, 1)


@contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
