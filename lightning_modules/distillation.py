"""Train a student to answer as its teacher does.

    batch -> teacher, or its outputs from disk -> Outputs --\
    batch -> student -------------------------> Outputs ---- weighted losses -> gradients of the student

The losses and their papers: ``fulgurite.distillation``. The teacher is no submodule: checkpoints hold the student, the
projections of hidden states, and the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.distillation import (
    LOSSES,
    Outputs,
    attention_transfer,
    contrastive,
    cosine_distance,
    hidden_distance,
    label_loss,
    logits_divergence,
    similarity_distance,
    top_divergence,
    value_relations,
)
from lightning_modules.optimisation import decay_groups
from lightning_modules.quantised import Quantise, Quantised

Watch = Callable[[nn.Module, Mapping[str, Tensor], frozenset[str]], Outputs]
"""Runs a network on a batch and gives the parts of ``Outputs`` that are named."""


@dataclass(frozen=True)
class Losses:
    """Weights of the losses, and what they are taken at.

    Args:
        weights: By name: ``logits``, ``labels``, ``hidden``, ``attentions``, ``values``, ``vectors``, ``similarity``,
            ``contrastive``; those that are not named have none.
        temperature: Divides the logits of both for ``logits``.
        contrastive_temperature: Divides cosines for ``contrastive``.

    Raises:
        ValueError: If a name is unknown, a weight negative, or all are 0.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"logits": 1.0})
    temperature: float = 1.0
    contrastive_temperature: float = 0.05

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in LOSSES:
                raise ValueError(f"losses must be of {', '.join(LOSSES)}, got {name!r}")
            if weight < 0:
                raise ValueError(f"the weight of {name} must be at least 0, got {weight}")
        if not any(self.weights.values()):
            raise ValueError("losses must give some loss a weight above 0")
        for name in ("temperature", "contrastive_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def used(self) -> dict[str, float]:
        """Those with a weight."""
        return {name: weight for name, weight in self.weights.items() if weight > 0}

    @property
    def wanted(self) -> frozenset[str]:
        """Parts of ``Outputs`` that they compare."""
        return frozenset(LOSSES[name] for name in self.used)


class Distillation(LightningModule):
    """A student in training.

    Batches hold ``inputs``, keyword arguments of both networks, and what of the teacher's outputs is known already
    as ``target``; both where the networks are.

    Args:
        student: Trained in place.
        watch: Makes ``Outputs`` of the student's pass, and of the teacher's where there is no ``target``.
        losses: Their weights.
        teacher: Frozen; ``None`` where every batch has a target.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: For matrices.
        steps: Length of the schedule: a linear rise, then half a cosine.
        warmup_share: Share of the rise.
        quantise: A codec that the student is trained for.
        seed: Of the projections of hidden states.
    """

    def __init__(
        self,
        student: nn.Module,
        watch: Watch,
        losses: Losses,
        *,
        teacher: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        steps: int = 1000,
        warmup_share: float = 0.05,
        quantise: Quantise | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.student = student
        self._quantised = None if quantise is None else _Held(Quantised(student, quantise))
        self.projections = nn.ModuleList()
        if "hidden" in losses.used and teacher is not None:
            ours, theirs = (_width(network) for network in (student, teacher))
            count = _depth(student) + 1
            if ours != theirs:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    made = [nn.Linear(ours, theirs, bias=False) for _ in range(count)]
                self.projections = nn.ModuleList(made)
        self._watch = watch
        self._losses = losses
        self._teacher = _Held(teacher)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = steps
        self.warmup_share = warmup_share

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Each loss on a batch, before its weight."""
        running = self.student if self._quantised is None else self._quantised.held
        ours = self._watch(running, batch["inputs"], self._losses.wanted)
        theirs: Outputs | None = batch.get("target")
        if theirs is None:
            teacher = self._teacher.held
            if teacher is None:
                raise ValueError(
                    "a batch must hold the teacher's outputs as target where there is no teacher"
                )
            with torch.no_grad():
                theirs = self._watch(teacher, batch["inputs"], self._losses.wanted)
        return {
            name: self._loss(name, ours, theirs, batch["inputs"]["input_ids"]) for name in self._losses.used
        }

    def total(self, batch: Mapping[str, Any]) -> Tensor:
        """Their weighted sum."""
        found = self.losses(batch)
        return torch.stack([self._losses.used[name] * loss for name, loss in found.items()]).sum()

    @torch.no_grad()
    def mean_loss(self, batches: Sequence[Mapping[str, Any]]) -> float:
        """Of the student as it is now, in eval mode, where it stays; through the codec that it is trained for."""
        self.eval()
        quantised = None if self._quantised is None else self._quantised.held
        if quantised is not None:
            quantised.ask_now()
        sizes = [len(batch["inputs"]["input_ids"]) for batch in batches]
        losses = [float(self.total(batch)) for batch in batches]
        if quantised is not None:
            quantised.take({})
        return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)

    def _loss(self, name: str, ours: Outputs, theirs: Outputs, tokens: Tensor) -> Tensor:
        if name == "logits" and theirs.top is not None:
            return top_divergence(_there(ours.logits), theirs.top, ours.mask, self._losses.temperature)
        if name == "logits":
            return logits_divergence(
                _there(ours.logits), _there(theirs.logits), ours.mask, self._losses.temperature
            )
        if name == "labels":
            return label_loss(_there(ours.logits), tokens, ours.mask)
        if name == "hidden":
            projected = list(ours.hidden)
            if len(self.projections):
                pairs = zip(self.projections, ours.hidden, strict=True)
                projected = [projection(state) for projection, state in pairs]
            return hidden_distance(projected, spaced(theirs.hidden, len(projected)), ours.mask)
        if name == "attentions":
            return attention_transfer(
                ours.attentions, last_of(theirs.attentions, len(ours.attentions)), ours.mask
            )
        if name == "values":
            return value_relations(_there(ours.values), _there(theirs.values), ours.mask)
        vectors = _there(ours.vectors), _there(theirs.vectors)
        if name == "vectors":
            return cosine_distance(*vectors)
        if name == "similarity":
            return similarity_distance(*vectors)
        return contrastive(*vectors, self._losses.contrastive_temperature)

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # who makes the batches puts them where the networks are

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self._quantised is None:
            return self.total(batch)
        quantised = self._quantised.held
        quantised.ask(self.global_step)
        loss = self.total(batch)
        weight = quantised.settings.rate_weight
        return loss + weight * quantised.rate() if weight else loss

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._quantised is not None:
            checkpoint["quantised_errors"] = self._quantised.held.errors

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._quantised is not None:
            self._quantised.held.take(checkpoint["quantised_errors"])

    @override
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(decay_groups(self, self.weight_decay), lr=self.learning_rate)
        warmup = max(1, round(self.warmup_share * self.steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.steps - warmup))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Held:
    """Keeps a module from being a submodule, and from being copied with its holder."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


def spaced(states: Sequence[Tensor], count: int) -> list[Tensor]:
    """``count`` of the teacher's states, evenly spaced from the embedding to the last layer.

    Example:
        >>> [int(state) for state in spaced([torch.tensor(n) for n in range(7)], 4)]
        [0, 2, 4, 6]
    """
    return [states[round(index * (len(states) - 1) / max(1, count - 1))] for index in range(count)]


def last_of(maps: Sequence[Tensor], count: int) -> list[Tensor]:
    """The last layer of each of ``count`` equal stretches of the teacher's layers.

    Example:
        >>> [int(one) for one in last_of([torch.tensor(n) for n in range(6)], 3)]
        [1, 3, 5]
    """
    return [maps[round((index + 1) * len(maps) / count) - 1] for index in range(count)]


def _there(part: Tensor | None) -> Tensor:
    if part is None:
        raise ValueError(
            "student and teacher must both give what a loss compares; the losses ask for what one lacks"
        )
    return part


def _width(network: Any) -> int:
    return int(network.config.hidden_size)


def _depth(network: Any) -> int:
    return int(network.config.num_hidden_layers)
