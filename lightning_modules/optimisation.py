"""AdamW and the learning rate schedule that language models are trained with.

    parameters -> matrices | norms, biases, embeddings -> weight decay | none -> AdamW
    step -> linear warm-up -> cosine down to a share -> learning rate

References: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
https://arxiv.org/abs/1711.05101; the schedule is that of "SGDR", ICLR 2017,
https://arxiv.org/abs/1608.03983, with one cycle and a warm-up.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: only matrices that are no embedding decay.

    Norms and biases set scales that decay would fight; a rare token's embedding would shrink between
    its few gradients. A head tied to the embedding counts as embedding.

    Args:
        network: Its parameters that require a gradient, each once.
        weight_decay: For the first group; the second has none.
    """
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # towers for pictures have embeddings of places and classes that no module owns
            embedding = id(parameter) in embeddings or name.endswith("embedding")
            matrix = parameter.dim() >= 2 and not embedding
            (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, least: float) -> float:
    """Factor of the learning rate at ``step``, counted from 0.

    Args:
        step: Optimiser steps done.
        warmup_steps: Steps of the linear rise; the first of them already moves.
        total_steps: Step at which the cosine ends.
        least: Factor at the end and after it.

    Example:
        >>> [warmup_cosine(step, 2, 6, 0.1) for step in (0, 1, 2, 6)]
        [0.5, 1.0, 1.0, 0.1]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return least + (1 - least) * (1 + math.cos(math.pi * done)) / 2


def adamw_cosine(
    module: LightningModule,
    *,
    learning_rate: float,
    weight_decay: float,
    warmup_share: float,
    warmup_steps: int | None = None,
    least: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> OptimizerLRScheduler:
    """AdamW over ``decay_groups`` with ``warmup_cosine``, step by step to the end of the fit.

    Args:
        module: In a fit; its parameters are trained.
        learning_rate: Highest of the run.
        weight_decay: For matrices.
        warmup_share: Share of the run that the rise takes.
        warmup_steps: Steps of the rise in its place.
        least: Share of ``learning_rate`` at the end.
        betas: Momenta.

    Raises:
        ValueError: If the fit has no end.
    """
    steps = module.trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise ValueError("the cosine needs an end: give trainer.max_steps or trainer.max_epochs")
    total = int(steps)
    warmup = round(warmup_share * total) if warmup_steps is None else warmup_steps
    optimizer = AdamW(decay_groups(module, weight_decay), lr=learning_rate, betas=betas)
    factor = partial(warmup_cosine, warmup_steps=warmup, total_steps=total, least=least)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
    }
