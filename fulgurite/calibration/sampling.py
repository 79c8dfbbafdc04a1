"""Random losses whose gradients have the curvature of a network's outputs: what the metric ``kl`` is made from.

    logits z -> p = softmax(z) -> signs s -> g = sqrt(p) s - p (sqrt(p) . s) -> loss = g . z
    E[g] = 0,  E[g g^T] = diag(p) - p p^T = hessian of KL(p || softmax(z)) = Fisher information of z

The usual draw is an answer y from p, with the gradient p - onehot(y) of -log p(y): it has the same two moments. But
a token that is drawn once in a thousand positions then has a thousand times its share in that one and none in the
others; with signs each position gives each token its share, p (1 - p) but for cross terms. In a head that is the
row weight, and everywhere else the noise is less too.

The network's own distribution, not the text's answers: the hessian of the divergence from the network as it is,
however good the network may be; with the text's tokens it would be another matrix.
References: Martens, Sutskever and Swersky, "Estimating the Hessian by Back-propagating Curvature", ICML 2012,
https://arxiv.org/abs/1206.6464, section 3 (random signs through a factor of the hessian); Martens, "New Insights and
Perspectives on the Natural Gradient Method", JMLR 2020, https://arxiv.org/abs/1412.1193, section 5 (why the Fisher).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Generator, Tensor, nn


class SampledLoss(Protocol):
    """A random loss, summed over places, whose gradient in the outputs has the curvature of the divergence.

    Its mean is zero and its second moment, place by place, the hessian of the divergence between the outputs'
    distributions, as with ``-log p(answer)`` of answers drawn from the network's own outputs; independent for
    different places.
    """

    def __call__(self, network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """Run the network and give a scalar that can be differentiated.

        Args:
            network: To be called as ``network(**batch)``.
            batch: On the network's device.
            generator: Of the CPU, so that what is drawn does not depend on the device.
        """


def sampled_loss(network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
    """Of a language model: every position that ``attention_mask`` does not leave out is a place.

    Raises:
        ValueError: If the network's outputs are no logits ``[batch, positions, vocabulary]``.
    """
    outputs = network(**batch)
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        found = type(outputs).__name__ if logits is None else f"shape {list(logits.shape)}"
        raise ValueError(
            f"{type(network).__name__} must give logits [batch, positions, vocabulary], got {found}; "
            "other networks need a sampled_loss of their own"
        )
    return softmax_curvature(logits, generator, batch.get("attention_mask"))


def softmax_curvature(logits: Tensor, generator: Generator, mask: Tensor | None = None) -> Tensor:
    """``sum g . logits`` over places, with ``E[g g^T]`` the Fisher information of ``softmax(logits)``.

    Args:
        logits: ``[..., classes]``.
        generator: Of the CPU.
        mask: ``[...]``; places where it is 0 do not count.

    Example:
        >>> logits = torch.zeros(1000, 2, requires_grad=True)
        >>> softmax_curvature(logits, torch.Generator().manual_seed(0)).backward()
        >>> abs(logits.grad.square().mean().item() - 0.25) < 0.03  # p (1 - p), give or take four deviations
        True
    """
    values = logits.float()
    probability = values.detach().softmax(-1)
    signs = torch.randint(2, values.shape, generator=generator, dtype=torch.int8).to(values.device)
    factor = probability.sqrt() * (2 * signs - 1)
    factor -= probability * factor.sum(-1, keepdim=True)
    if mask is not None:
        factor *= mask[..., None] != 0
    return (factor * values).sum()


def count_positions(batch: Mapping[str, Tensor]) -> int:
    """Tokens of a batch that its ``attention_mask`` does not leave out; items of one without tokens."""
    mask = batch.get("attention_mask")
    if mask is not None:
        return int((mask != 0).sum())
    tokens = batch.get("input_ids")
    return tokens.numel() if tokens is not None else len(next(iter(batch.values())))
