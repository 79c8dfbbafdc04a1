"""What each part of a network does for its outputs: layers, heads, neurons, channels.

    batches -> network, hooks -> 1 - cos(block's input, block's output)       -> layers
            -> loss -> backward -> |gradient * value| summed over tokens      -> heads, neurons, channels

Layers by block influence: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect",
https://arxiv.org/abs/2403.03853. The rest by the first-order Taylor term of what removing it does to the
loss: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
https://arxiv.org/abs/1906.10771, section 3; for language models Ma et al., "LLM-Pruner",
https://arxiv.org/abs/2305.11627, section 3.2. Without a loss by the size of activations: Muralidharan et al.,
"Compact Language Models via Pruning and Knowledge Distillation" (Minitron), https://arxiv.org/abs/2407.14679.
Differs from the papers:
- A gate on the activation stands for all coupled weights, and the absolute value is taken for each token: what helps
  one token and harms another is in use.
- A head's gate is one number for all its channels; so its products are added before the absolute value.
- A channel of the residual stream is gated where it leaves each norm: all that reads it does so through one. The
  gates' terms are added over norms, as they are of one loss. Activations are not, and are there divided by each norm's
  mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fulgurite.calibration import evaluating, frozen
from fulgurite.students._watch import Watch
from fulgurite.students.families import family_of, head_width, neurons
from fulgurite.students.losses import Batch, Loss

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class NormStatistics(NamedTuple):
    """Of the normalised inputs of one norm, before its own weight: over tokens, for each channel ``[hidden]``."""

    mean: Tensor
    square: Tensor


@dataclass(frozen=True)
class Importance:
    """How much each part matters; of one kind of part the numbers compare, of different kinds they do not.

    Every number is at least 0. ``dataclasses.replace`` puts another ranking in the place of one, such as
    ``layer_removal``'s in that of ``layers``.

    Args:
        layers: ``[layers]``.
        heads: Query heads, ``[layers, heads]``.
        neurons: ``[layers, intermediate_size]``.
        hidden: Channels of the residual stream, ``[hidden_size]``.
        queries: Channels of query heads, ``[layers, heads * width]``; used where heads become narrower.
        values: Channels of heads' contexts, likewise.
        norms: By the name of the norm; empty where nothing was measured.
    """

    layers: Tensor
    heads: Tensor
    neurons: Tensor
    hidden: Tensor
    queries: Tensor
    values: Tensor
    norms: Mapping[str, NormStatistics] = field(default_factory=dict)

    def check(self, config: PreTrainedConfig) -> None:
        """Raise if this is not of such a network.

        Raises:
            ValueError: If a size differs or a number is not finite.
        """
        for name, expected in importance_sizes(config).items():
            given: Tensor = getattr(self, name)
            if tuple(given.shape) != expected:
                raise ValueError(
                    f"importance.{name} must be {list(expected)} for this teacher, got {list(given.shape)}"
                )
            if not torch.isfinite(given).all():
                raise ValueError(f"importance.{name} must be finite, got NaN or infinity")


def importance_sizes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of an ``Importance`` for a network of this configuration."""
    layers, heads = int(config.num_hidden_layers), int(config.num_attention_heads)
    channels = (layers, heads * head_width(config))
    return {
        "layers": (layers,),
        "heads": (layers, heads),
        "neurons": (layers, neurons(config)),
        "hidden": (int(config.hidden_size),),
        "queries": channels,
        "values": channels,
    }


def measure_importance(
    network: PreTrainedModel,
    batches: Iterable[Batch],
    loss: Loss | None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Importance:
    """Run the network over the batches once and measure every part of it.

    The network runs in eval mode, its parameters without gradients; both come back as they were.

    Args:
        network: Of a known family.
        batches: Keyword arguments of the network, moved to its device. Positions where the ``attention_mask`` that
            the network is called with is 0 do not count.
        loss: Called as ``loss(network, batch)``; a sum over tokens or texts, so that each weighs the same in every
            batch. ``next_token_loss`` for language models. ``None``: activations in place of Taylor terms.
        progress: Called with the number of batches done after each.

    Returns:
        Float32 on the CPU; means over tokens.

    Raises:
        ValueError: If the family is unknown, there is no batch, or the loss does not depend on the network.
    """
    family = family_of(network)
    watch = Watch(network, family, gradients=loss is not None)
    done = 0
    with watch, evaluating(network), frozen(network), torch.set_grad_enabled(loss is not None):
        for batch in on_device(network, batches):
            if loss is None:
                network(**batch)
            else:
                value = loss(network, batch)
                if not value.requires_grad:
                    raise ValueError("loss must depend on the network's outputs, got one without a gradient")
                torch.autograd.backward(value)
            done += 1
            if progress is not None:
                progress(done)
    if not done:
        raise ValueError("importance needs at least one batch, got none")
    scores = {name: watch.scores(name, shape) for name, shape in importance_sizes(network.config).items()}
    statistics = {name: NormStatistics(*moments) for name, moments in watch.norm_moments().items()}
    return Importance(**scores, norms=statistics)


def on_device(network: nn.Module, batches: Iterable[Batch]) -> Iterable[dict[str, Tensor]]:
    """The batches, moved to where the network is."""
    device = next(network.parameters()).device
    for batch in batches:
        yield {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
