"""Settings of a refinement and the Lightning fit that carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from callbacks.grokfast import Grokfast
from callbacks.stages.quiet_fit import quiet_fit, steps_done
from fulgurite.codecs import Encoded
from lightning_modules.compressible import Objective
from lightning_modules.refinement import Refinement, Reweighted, StepBatches


@dataclass(frozen=True)
class Refine:
    """Train a stage's scales, codebooks, norms and biases against the reference network.

    Args:
        steps: Optimiser steps; 0 leaves the stage as it was encoded.
        learning_rate: Relative to the root mean square of each trained part.
        batch_size: Windows in a step.
        temperature: Divides the logits of both networks.
        gradient_clip: Largest norm of the gradient.
        reassign_every: Steps between two new choices of the codes that are trained with the rest; 0 for none.
            Only codecs that can (``ecq``).
        reassign_below: Bits per weight from which a weight's codes stay.
        latent_learning_rate: Of the values behind these codes, relative as ``learning_rate`` is.
        checkpoint_every: Steps between checkpoints; a killed run goes on from the last.
        seed: Of the order of the windows.
        grokfast: A gradient filter, off by default. A claim for it needs its control: the same run with
            ``learning_rate_control: true``.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int = 0
    learning_rate: float = 1e-3
    batch_size: int = 8
    temperature: float = 1.0
    gradient_clip: float = 1.0
    reassign_every: int = 0
    reassign_below: float = 2.5
    latent_learning_rate: float = 1e-3
    checkpoint_every: int = 50
    seed: int = 0
    grokfast: Grokfast | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "reassign_every", "reassign_below"):
            if getattr(self, name) < 0:
                raise ValueError(f"refine.{name} must be at least 0, got {getattr(self, name)}")
        for name in (
            "learning_rate",
            "latent_learning_rate",
            "batch_size",
            "temperature",
            "gradient_clip",
            "checkpoint_every",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"refine.{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class RefineResult:
    """What a refinement came to; losses are on windows that it did not train on."""

    encoded: Mapping[str, Encoded]
    steps: int
    loss_first: float
    loss_last: float
    kept: bool


def refine(
    network: nn.Module,
    objective: Objective,
    encoded: Mapping[str, Encoded],
    windows: Tensor,
    settings: Refine,
    folder: Path,
    *,
    base: Mapping[str, Tensor] | None = None,
    reweighted: Reweighted | None = None,
    device: torch.device | None = None,
    progress: Callable[[int, float], None] | None = None,
    check: Callable[[], None] | None = None,
) -> RefineResult:
    """Train the continuous parts of ``encoded`` and keep the result if it is better.

    What is trained lies in this process, so the bytes do not depend on how many ranks there are, but for those of a
    network in parts.

    Args:
        network: The reference network.
        objective: Says how far two networks' outputs are apart.
        encoded: Encoded weights by parameter name.
        windows: ``[n, length]`` tokens to train on; the last batch of them is held out to judge by.
        settings: As the recipe gives them.
        folder: For checkpoints; emptied of them by the caller when the try is done.
        base: What decoded weights are added to, by name; of deltas.
        reweighted: Calls the network with other weights; by default where it is.
        device: Where the encoded weights are trained; by default that of the network.
        progress: Called with the step and its loss.
        check: Called after each step; what it raises ends the fit, with a checkpoint at that step.

    Raises:
        ValueError: If there are too few windows to train on one batch and judge by another.
    """
    held_out = min(settings.batch_size * 2, len(windows) // 2)
    if held_out < 1:
        raise ValueError(f"refinement needs at least 2 windows of text, got {len(windows)}")
    device = device or next(network.parameters()).device
    module = Refinement(
        network,
        objective,
        {name: entry.to(device) for name, entry in encoded.items()},
        learning_rate=settings.learning_rate,
        steps=settings.steps,
        temperature=settings.temperature,
        reassign_every=settings.reassign_every,
        reassign_below=settings.reassign_below,
        latent_learning_rate=settings.latent_learning_rate,
        base=base,
        reweighted=reweighted,
    )
    judge = objective.as_batch(windows[-held_out:].to(device))
    with torch.no_grad():
        loss_first = float(module.divergence(judge))
    last = folder / "refine.ckpt"
    batches = StepBatches(
        windows[:-held_out],
        objective.as_batch,
        batch_size=settings.batch_size,
        steps=settings.steps,
        first_step=steps_done(last),
        seed=settings.seed,
    )
    was_training = network.training
    network.eval()
    quiet_fit(
        module,
        batches.loader(),
        last,
        device,
        steps=settings.steps,
        gradient_clip=settings.gradient_clip,
        checkpoint_every=settings.checkpoint_every,
        callbacks=[] if settings.grokfast is None else [settings.grokfast],
        progress=progress,
        check=check,
    )
    network.train(was_training)
    refined = module.result()
    stored = Refinement(
        network,
        objective,
        refined,
        steps=1,
        temperature=settings.temperature,
        base=base,
        reweighted=reweighted,
    )
    with torch.no_grad():
        loss_last = float(stored.divergence(judge))
    kept = loss_last < loss_first  # also false for NaN
    chosen = {name: entry.to("cpu") for name, entry in refined.items()} if kept else encoded
    return RefineResult(chosen, settings.steps, loss_first, loss_last, kept)
