"""Which layers a network's quality hangs on: one compressed among exact ones, one exact among compressed ones.

    network with the reference's weights + the compressed weights of one layer -> score -> damage alone
    network with the compressed weights  + the reference's weights of one layer -> score -> damage mended

Both are told, as damages do not add up: what a layer costs alone says nothing of errors that others make worse. The
second is what more bits for that layer could win at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fulgurite.allocation.probe import Divergence
from fulgurite.analysis.comparison import difference_interval
from fulgurite.analysis.subspaces import check_alike
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.statistics import Interval

Score = Callable[[nn.Module], Measure]
"""Measures a network, item by item; the same items at each call."""

VECTORS = "vectors"
"""Name of the group of norms and biases that belong to no matrix's layer."""

_BLOCK = re.compile(r"^(.*?\.\d+)\.")


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, in the measure's unit; above 0 is worse for ``alone`` and better for ``mended``.

    Args:
        name: Of the layer.
        num_weights: Entries.
        alone: How much worse the reference gets when only this layer is compressed.
        mended: How much better the compressed network gets when only this layer is exact.
    """

    name: str
    num_weights: int
    alone: Interval
    mended: Interval


@dataclass(frozen=True)
class Sensitivities:
    """All layers, and the two networks.

    Args:
        reference: Score of the reference.
        compressed: Of the compressed network.
        damage: How much worse the latter is.
        layers: In the network's order.
    """

    reference: Measure
    compressed: Measure
    damage: Interval
    layers: Sequence[LayerSensitivity]


def layer_groups(weights: Iterable[tuple[str, Tensor]], by: str = "layer") -> dict[str, list[str]]:
    """Weights by what is compressed together.

    Args:
        weights: Names and values, tied ones once.
        by: ``layer``, a matrix with its bias; ``block``, all of a numbered block such as ``model.layers.0``.
            Norms go with their block, or else together.

    Raises:
        ValueError: If ``by`` is neither.
    """
    if by not in ("layer", "block"):
        raise ValueError(f"by must be layer or block, got {by!r}")
    found = list(weights)
    owners = {name.rpartition(".")[0] for name, weight in found if weight.dim() >= 2}
    groups: dict[str, list[str]] = {}
    for name, weight in found:
        owner = name.rpartition(".")[0]
        if by == "block":
            block = _BLOCK.match(name)
            key = block[1] if block else owner if weight.dim() >= 2 else VECTORS
        elif weight.dim() >= 2:
            key = name.removesuffix(".weight")
        else:
            key = owner if owner in owners else VECTORS
        groups.setdefault(key or name, []).append(name)
    return groups


def measure_sensitivity(
    network: nn.Module,
    compressed: Mapping[str, Tensor],
    score: Score,
    *,
    by: str = "layer",
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivities:
    """Measure what each layer's compression costs.

    Args:
        network: The reference; its weights are as before afterwards.
        compressed: Weights of the compressed network, tied ones once.
        score: Called twice for each layer that differs, and twice more.
        by: As ``layer_groups`` takes it.
        resamples: Bootstrap draws of the intervals.
        seed: Of the draws.
        progress: Called with the scores taken so far, and those to take.

    Raises:
        ValueError: If the networks' weights differ in names or shapes, or in no value.
    """
    parameters = dict(network.named_parameters(remove_duplicate=True))
    check_alike(parameters, compressed)
    changed = {
        name: [one for one in names if not torch.equal(parameters[one].cpu(), compressed[one].cpu())]
        for name, names in layer_groups(parameters.items(), by).items()
    }
    groups = {name: names for name, names in changed.items() if names}
    if not groups:
        raise ValueError("the networks have the same weights to the bit: there is no damage to look for")
    done, total = 0, 2 + 2 * len(groups)

    def scored(names: Iterable[str]) -> Measure:
        nonlocal done
        with replaced(parameters, {name: compressed[name] for name in names}):
            found = score(network)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    everything = [name for names in groups.values() for name in names]
    before, after = scored([]), scored(everything)
    layers = []
    for name, own in groups.items():
        alone = scored(own)
        mended = scored([one for one in everything if one not in own])
        layers.append(
            LayerSensitivity(
                name=name,
                num_weights=sum(parameters[one].numel() for one in own),
                alone=difference_interval(alone, before, resamples=resamples, seed=seed),
                mended=difference_interval(after, mended, resamples=resamples, seed=seed),
            )
        )
    damage = difference_interval(after, before, resamples=resamples, seed=seed)
    return Sensitivities(before, after, damage, layers)


@contextmanager
@torch.no_grad()
def replaced(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in some parameters; afterwards they are as they were."""
    before = {name: parameters[name].detach().clone() for name in values}
    try:
        for name, value in values.items():
            parameters[name].data.copy_(value)
        yield
    finally:
        for name, value in before.items():
            parameters[name].data.copy_(value)


def divergence_score(
    reference: nn.Module, batches: Sequence[Mapping[str, Tensor]], divergence: Divergence
) -> Score:
    """A score that is how far a network's outputs are from the reference's; each batch is an item.

    Args:
        reference: With weights that stay as they are.
        batches: Keyword arguments, on the device.
        divergence: ``(outputs, reference outputs, batch)`` to how far they are apart.

    Raises:
        ValueError: If there is no batch.
    """
    if not batches:
        raise ValueError("expected at least one batch to compare outputs on, found none")
    wanted: list[Any] = []

    @torch.no_grad()
    def score(network: nn.Module) -> Measure:
        if not wanted:
            wanted.extend(reference(**batch) for batch in batches)
        found = [
            float(divergence(network(**batch), known, batch))
            for batch, known in zip(batches, wanted, strict=True)
        ]
        ones = np.ones(len(found))
        return Measure("divergence", np.array(found), ones, ones, higher_is_better=False, unit="nats")

    return score
