"""Gather the metrics of a network's weights over calibration data.

    input:  batches -> network, a hook before each layer -> sum of x x^T -> / positions -> hessian
    kl:     batches -> network -> a loss of random signs -> backward, a hook after each layer -> g
            sum of |g|^2 x x^T -> hessian          sum of |x|^2 g^2 -> row_weight

``input`` is the mean squared error of a layer's outputs under a changed weight, ``tr(E H E^T)`` with ``H`` the
second moment of the inputs ``x``: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, https://arxiv.org/abs/2210.17323, section 3. Differs from the paper: no factor 2.

``kl`` is the curvature of the divergence of the network's outputs from what they were, a Fisher information, as a
Kronecker product: Tseng et al., "Model-Preserving Adaptive Rounding" (YAQA), https://arxiv.org/abs/2505.22988,
section 3, sketch A: tokens count as independent of each other. Convolutions have sketch B, the gradient of a whole
image at a time: there are enough images times outputs, and the places of an image are far from independent.
Differs from the paper:
- One step of the power iteration from the identity, both sides from the same pass. A second pass, with ``x^T H x``
  in place of ``|x|^2``, costs as much again and moved the divergence of coded networks by a few percent, either way.
- Of the output side only the diagonal (see ``Metric``).
- Random signs in place of answers drawn from the outputs (see ``sampling``).
- The scale is sketch B's everywhere: the squared norm of the gradient of a whole sample. Tokens that count as
  independent overrate attention keys (a change common to all keys does nothing) and underrate what is averaged.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

from fulgurite.calibration._shares import CHUNKS, Batch, Batches, Share
from fulgurite.calibration._sums import FisherSums, InputSums, combine
from fulgurite.calibration._watch import evaluating, frozen, watch_gradients, watch_inputs
from fulgurite.calibration.attention import fused_layers, opened
from fulgurite.calibration.layers import is_known
from fulgurite.calibration.metric import Metric, MetricKind
from fulgurite.calibration.sampling import SampledLoss, count_positions, sampled_loss

Found = dict[Tensor, Metric | str]
"""For each weight its metric, or why there is none."""

_Sums = TypeVar("_Sums", InputSums, FisherSums)


def attention_mask(batch: Batch) -> Tensor | None:
    """What a batch says of its own positions."""
    return batch.get("attention_mask")


def gather_metrics(
    network: nn.Module,
    batches: Iterable[Batch],
    names: Collection[str],
    kind: MetricKind,
    *,
    sampled_loss: SampledLoss = sampled_loss,
    count_places: Callable[[Batch], int] = count_positions,
    text_mask: Callable[[Batch], Tensor | None] = attention_mask,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    share: Share = Share(),  # noqa: B008 (frozen)
    room: int | None = None,
) -> dict[str, Metric]:
    """Run the network over the batches and gather the metric of each named weight.

    Weights of ``nn.Linear``, ``nn.Conv2d``, ``nn.Embedding``, ``nn.MultiheadAttention`` and transformers' ``Conv1D``
    have one, in the order of rows and columns in which codecs see the weight:

    ==================  ============================================  ====================================
    weight of           ``input``: error of the layer's own outputs   ``kl``: divergence of the network's
    ==================  ============================================  ====================================
    Linear, Conv2d      hessian                                       hessian and row weights
    grouped Conv2d      mean hessian of groups, row weights           hessian and row weights
    Conv1D [in, out]    row weights                                   hessian of outputs, weights of inputs
    Embedding           row weights: frequencies of tokens            hessian of its width, row weights
    tied embedding      sum over embedding and head                   sum over embedding and head
    fused q, k, v       hessian                                       hessian and row weights
    ==================  ============================================  ====================================

    ``kl`` is in nats: half the metric's ``cost`` of an error is the expected divergence per place, to second order,
    if the error's entries are uncorrelated; so layers compare with each other. ``input`` is in the units of each
    layer's outputs, and those of different layers do not compare. A token that does not occur counts as half an
    occurrence: other texts will have it. Where most of a vocabulary does not occur, its cost is mostly theirs.

    Where a metric of the wanted kind is not usable, the weight gets the next simpler one (``kl``, ``input``,
    ``identity``), and ``Metric.fallback`` says why.

    Args:
        network: Called as ``network(**batch)`` in eval mode; its training mode comes back.
        batches: Keyword arguments, moved to the network's device. Under ``input``, positions where a batch's
            ``text_mask`` is 0 are not counted. This process's share of them is held in memory.
        names: Of parameters, as ``network.named_parameters`` spells them, tied ones by either name.
        kind: Which metric.
        sampled_loss: For ``kl``; the default is that of causal language models.
        count_places: How many places ``sampled_loss`` sums over; by default the positions of the batch.
        text_mask: Which positions of a batch are text, ``[batch, positions]``, or ``None`` for all; by default its
            ``attention_mask``.
        seed: Of what is drawn.
        progress: Called with the number of batches done after each; a second pass counts on.
        share: This process among those that gather together; the metrics have the same bits for any number.
        room: Bytes that sums may take on the network's device, those of one weight at least. Where all would take
            more, weights are done in groups, each with passes of its own. Without a limit all are done at once.

    Returns:
        The metrics by name, tied names hold one; on the network's device, or of several groups on the CPU. Of several
        processes the first has them, the others get none. Biases, norms and other vectors have none, and under
        ``identity`` no weight has.

    Raises:
        ValueError: If a name is no parameter, the kind is unknown, or there is no batch though a weight needs one.
    """
    if kind not in get_args(MetricKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(MetricKind))}, got {kind!r}")
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for name in names:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, cutoff=0.3)
            raise ValueError(f"names has {name!r}, which is no parameter; near: {', '.join(near)}")
    matrices = [name for name in names if parameters[name].dim() >= 2]
    if kind == "identity" or not matrices:
        return {}
    shared = Batches(batches, _device(network), progress, share)
    sampled = _Sampled(sampled_loss, count_places, seed)
    groups = _groups([parameters[name] for name in matrices], share.least(room))
    found: dict[Tensor, Metric] = {}
    for group in groups:
        metrics = _gathered(network, shared, group, kind, sampled, text_mask, share)
        found |= metrics if len(groups) == 1 else {weight: _on_cpu(each) for weight, each in metrics.items()}
    return {name: found[parameters[name]] for name in matrices} if share.rank == 0 else {}


def _groups(weights: Iterable[Tensor], room: int | None) -> list[dict[Tensor, None]]:
    """Weights in their order, as many together as there is room for the sums of."""
    groups: list[dict[Tensor, None]] = []
    left = 0.0
    for weight in dict.fromkeys(weights):
        columns = weight.shape[1:].numel()
        size = 2 * 4 * (columns**2 + len(weight))  # float32, of a chunk and in all
        if not groups or left < size:
            groups.append({})
            left = math.inf if room is None else room
        groups[-1][weight] = None
        left -= size
    return groups


def _on_cpu(metric: Metric) -> Metric:
    hessian, rows = (None if side is None else side.cpu() for side in (metric.hessian, metric.row_weight))
    return replace(metric, hessian=hessian, row_weight=rows)


def _gathered(
    network: nn.Module,
    batches: Batches,
    wanted: Collection[Tensor],
    kind: MetricKind,
    sampled: _Sampled,
    text_mask: Callable[[Batch], Tensor | None],
    share: Share,
) -> dict[Tensor, Metric]:
    """The metrics of some weights; rank 0 has them."""
    reasons: dict[Tensor, str] = {}
    found: dict[Tensor, Metric] = {}
    if kind == "kl":
        _sort(_fisher(network, batches, wanted, sampled, share), found, reasons, "kl")
    missing = share.agree([place for place, weight in enumerate(wanted) if weight not in found])
    if missing:
        weights = [weight for place, weight in enumerate(wanted) if place in missing]
        _sort(_inputs(network, batches, weights, text_mask, share), found, reasons, "input")
    for weight in wanted:
        found.setdefault(weight, Metric())
        found[weight] = replace(found[weight], fallback=reasons.get(weight, ""))
    return found


def _sort(outcome: Found, found: dict[Tensor, Metric], reasons: dict[Tensor, str], kind: MetricKind) -> None:
    """Put the metrics with those found, and add to the reasons why others are missing."""
    for weight, metric in outcome.items():
        if isinstance(metric, Metric):
            found[weight] = metric
        else:
            before = f"{reasons[weight]}; " if weight in reasons else ""
            reasons[weight] = f"{before}{kind}: {metric}"


def _inputs(
    network: nn.Module,
    batches: Batches,
    wanted: Collection[Tensor],
    text_mask: Callable[[Batch], Tensor | None],
    share: Share,
) -> Found:
    """Second moments of the inputs of the layers of each weight; rank 0 has them."""
    layers = _layers_of(network, wanted)
    sums, totals = ({layer: InputSums(layer) for layer in layers} for _ in range(2))
    for _, chunk in batches.chunks() if layers else ():
        with watch_inputs(sums, batches) as see_mask, _calls(sums), evaluating(network), torch.no_grad():
            for batch in chunk:
                see_mask(text_mask(batch))
                network(**batch)
        share.add_up(list(sums.values()), list(totals.values()))
    outcome: Found = {}
    for weight in wanted if share.rank == 0 else ():
        parts = [part for each in _of(weight, totals) if (part := each.part()) is not None]
        outcome[weight] = _judged(
            combine(parts, "input") if parts else "no batch reached it", known=bool(_of(weight, totals))
        )
    return outcome


@dataclass(frozen=True)
class _Sampled:
    """The random loss that ``kl`` is made from."""

    loss: SampledLoss
    count_places: Callable[[Batch], int]
    seed: int


def _fisher(
    network: nn.Module, batches: Batches, wanted: Collection[Tensor], sampled: _Sampled, share: Share
) -> Found:
    """Second moments of sampled gradients of each weight, per place; rank 0 has them."""
    layers = _layers_of(network, wanted)
    sums, totals = ({layer: FisherSums(layer) for layer in layers} for _ in range(2))
    overwritten: set[nn.Module] = set()
    places = 0
    for number, chunk in batches.chunks() if layers else ():
        generator = torch.Generator().manual_seed(sampled.seed * CHUNKS + number)  # whoever draws for it
        watching = watch_gradients(sums, overwritten, batches)
        with watching, _calls(sums), evaluating(network), frozen(network):
            for batch in chunk:
                loss = sampled.loss(network, batch, generator)
                places += 0 if batches.idle else sampled.count_places(batch)
                if loss.requires_grad:  # or none of the layers was reached, which their sums will tell
                    torch.autograd.backward(loss)
        share.add_up(list(sums.values()), list(totals.values()))
    spoilt = share.gather([place for place, layer in enumerate(layers) if layer in overwritten])
    places = sum(share.gather(places))
    outcome: Found = {}
    for weight in wanted if share.rank == 0 else ():
        parts = [part for each in _of(weight, totals) if (part := each.part(max(1, places))) is not None]
        if any(layers[place].weight is weight for each in spoilt for place in each):
            outcome[weight] = "the network changes its input in place"
        else:
            outcome[weight] = _judged(
                combine(parts, "kl") if parts else "no batch's loss depends on it",
                known=bool(_of(weight, totals)),
            )
    return outcome


def _judged(metric: Metric | str, *, known: bool) -> Metric | str:
    if not known:
        return "no layer that calibration knows multiplies with it"
    return metric if isinstance(metric, str) else metric.problem() or metric


def _layers_of(network: nn.Module, wanted: Collection[Tensor]) -> list[nn.Module]:
    layers = [*network.modules(), *fused_layers(network)]
    known = set(wanted)
    return [layer for layer in layers if is_known(layer) and layer.weight in known]


def _calls(layers: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Attention that multiplies through the layers, one for each weight."""
    return opened({weight: layer for layer in layers if isinstance(weight := layer.weight, Tensor)})


def _of(weight: Tensor, sums: Mapping[nn.Module, _Sums]) -> list[_Sums]:
    return [each for layer, each in sums.items() if layer.weight is weight]


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
