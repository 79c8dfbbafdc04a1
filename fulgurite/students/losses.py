"""Losses and divergences of language models for measuring importance; other networks bring their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

Batch = Mapping[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
"""Runs the network on a batch's keyword arguments; gives a scalar, a sum over what is scored."""
Divergence = Callable[[Any, Any, Batch], Tensor]
"""How far a network's outputs (second) are from the reference's (first), a scalar, a sum as above."""


def next_token_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Nats of each token after the first of a causal language model, summed; padding does not count.

    Args:
        network: Gives logits ``[b, t, V]`` or an object with ``.logits``.
        batch: ``input_ids [b, t]`` and, where rows are padded, ``attention_mask``.
    """
    logits = _logits(network(**batch))[:, :-1].float()
    targets = batch["input_ids"][:, 1:]
    nats = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    mask = batch.get("attention_mask")
    return nats.sum() if mask is None else (nats * mask[:, 1:].flatten()).sum()


def logit_divergence(reference: Any, outputs: Any, batch: Batch) -> Tensor:
    """``KL(reference || outputs)`` in nats, summed over tokens; padding does not count.

    Args:
        reference: Logits ``[b, t, V]`` or an object with ``.logits``.
        outputs: The same.
        batch: For its ``attention_mask``.
    """
    wanted, found = (_logits(each).float().log_softmax(-1) for each in (reference, outputs))
    nats = functional.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)
    mask = batch.get("attention_mask")
    return nats.sum() if mask is None else (nats * mask).sum()


def _logits(outputs: Any) -> Tensor:
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        found = type(outputs).__name__ if logits is None else f"shape {list(logits.shape)}"
        raise ValueError(
            f"expected logits [batch, positions, vocabulary], got {found}; "
            "networks that are no language models need a loss of their own"
        )
    return logits
