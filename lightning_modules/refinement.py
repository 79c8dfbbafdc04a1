"""Refine a compressed network: train what is continuous in it, with the codes frozen.

    batch -> reference network ------------------------------> logits ---\
    batch -> same network with decode(codes, scales, ...) ---> logits ----KL -> gradients of scales, codebooks, norms

Only the parts that each codec names ``continuous`` are trained; their bytes do not change, so refinement costs
no size. The reference network itself is used for both passes, its weights replaced by decoded ones in the second.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from fulgurite.codecs import CODECS, Encoded, decode
from lightning_modules.compressible import Objective
from lightning_modules.latents import Latents

_WARMUP_SHARE = 0.1

Reweighted = Callable[[Mapping[str, Tensor], Mapping[str, Any]], Any]
"""Calls a network with other weights, by name, and keyword arguments; gradients go to the weights."""


def with_weights(network: nn.Module, weights: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Any:
    """Call a network with some of its weights replaced."""
    return functional_call(network, dict(weights), args=(), kwargs=dict(inputs))


class Refinement(LightningModule):
    """Train the continuous parts of encoded weights towards the reference network's outputs.

    Args:
        network: The reference, frozen; not saved in checkpoints.
        objective: Says how far two networks' outputs are apart.
        encoded: Encoded weights by parameter name; parameters that are not in it stay the reference's.
        learning_rate: Step of Adam relative to the root mean square of each part: parts differ in size by
            orders of magnitude.
        steps: Length of the cosine schedule.
        temperature: Divides the logits of both networks.
        reassign_every: Steps between two new choices of codes; 0 leaves the codes as they are.
        reassign_below: Bits per weight above which codes stay: many small steps leave nothing to win.
        latent_learning_rate: Step of the values behind the codes, relative as ``learning_rate`` is.
        base: What decoded weights are added to, by name; of deltas.
        reweighted: Calls the network with decoded weights; by default where it is.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        encoded: Mapping[str, Encoded],
        *,
        learning_rate: float = 1e-3,
        steps: int = 200,
        temperature: float = 1.0,
        reassign_every: int = 0,
        reassign_below: float = 2.5,
        latent_learning_rate: float = 1e-3,
        base: Mapping[str, Tensor] | None = None,
        reweighted: Reweighted | None = None,
    ) -> None:
        super().__init__()
        expanded = {name: CODECS[entry.codec].expanded(entry) for name, entry in encoded.items()}
        reweighted = reweighted or partial(with_weights, network)
        self._frozen = _Frozen(network, reweighted, objective, dict(encoded), expanded, dict(base or {}))
        self.learning_rate = learning_rate
        self.steps = steps
        self.temperature = temperature
        self.parts = nn.ParameterDict()
        self._homes: dict[tuple[str, str], str] = {}
        seen: dict[str, str] = {}
        for name, entry in expanded.items():
            for part in CODECS[entry.codec].continuous:
                if part in entry.tensors:
                    # a codebook that weights share stays one, else refinement would store it many times
                    home = _key(name, part)
                    if part in encoded[name].tensors:
                        home = seen.setdefault(_content(entry.tensors[part], part), home)
                    self._homes[name, part] = home
                    if home not in self.parts:
                        self.parts[home] = nn.Parameter(entry.tensors[part].detach().float().clone())
        self.latent_learning_rate = latent_learning_rate
        self.reassign_every = reassign_every
        low = {name: entry for name, entry in encoded.items() if entry.bits_per_weight < reassign_below}
        self.latents = Latents(low if reassign_every else {}, expanded)

    def decoded(self) -> dict[str, Tensor]:
        """All weights as the current parts make them, with gradients."""
        weights = {
            name: decode(entry.with_tensors(**self._trained(name, entry), **self.latents.parts(name)))
            for name, entry in self._frozen.expanded.items()
        }
        return weights | {name: below + weights[name] for name, below in self._frozen.base.items()}

    def result(self) -> dict[str, Encoded]:
        """The encoded weights with the trained parts, rounded to the width that they are stored in."""
        encoded = self._frozen.encoded | self.latents.finish()
        return {
            name: CODECS[entry.codec].compacted(entry, self._trained(name, self._frozen.expanded[name]))
            for name, entry in encoded.items()
        }

    def _trained(self, name: str, entry: Encoded) -> dict[str, Tensor]:
        parts = [part for part in CODECS[entry.codec].continuous if part in entry.tensors]
        return {part: self.parts[self._homes[name, part]] for part in parts}

    def divergence(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How far the compressed network's outputs are from the reference's."""
        network, objective = self._frozen.network, self._frozen.objective
        with torch.no_grad():
            reference = network(**batch)
        outputs = self._frozen.reweighted(self.decoded(), batch)
        return objective.divergence(outputs, reference, batch, self.temperature)

    @override
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.reassign_every and self.global_step and self.global_step % self.reassign_every == 0:
            self.latents.reassign()
        return self.divergence(batch)

    @override
    def configure_optimizers(self) -> Any:
        groups = []
        for part in self.parts.values():
            size = float(part.detach().square().mean().sqrt())
            groups.append({"params": [part], "lr": self.learning_rate * max(size, 1e-8)})
        for latent in self.latents.values():
            size = float(latent.detach().square().mean().sqrt())
            groups.append({"params": [latent], "lr": self.latent_learning_rate * max(size, 1e-8)})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        warmup = max(1, round(_WARMUP_SHARE * self.steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@dataclass(frozen=True)
class _Frozen:
    """What is not trained; not a submodule, so that checkpoints hold the trained parts alone."""

    network: nn.Module
    reweighted: Reweighted
    objective: Objective
    encoded: dict[str, Encoded]
    expanded: dict[str, Encoded]
    base: dict[str, Tensor]


class StepBatches(IterableDataset[dict[str, Tensor]]):
    """Batches by step: which windows step ``s`` sees depends on the seed and ``s`` alone.

    A resumed refinement asks for the batches from its step on and gets those of an uninterrupted one.

    Args:
        windows: ``[n, length]`` rows of tokens.
        as_batch: Makes keyword arguments of the network of some rows.
        batch_size: Windows in a batch.
        steps: Step to stop before.
        first_step: Step to begin with.
        seed: Of the order.
    """

    def __init__(
        self,
        windows: Tensor,
        as_batch: Callable[[Tensor], dict[str, Tensor]],
        *,
        batch_size: int,
        steps: int,
        first_step: int = 0,
        seed: int = 0,
    ) -> None:
        self.windows = windows
        self.as_batch = as_batch
        self.batch_size = min(batch_size, len(windows))
        self.steps = steps
        self.first_step = first_step
        self.seed = seed

    @override
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        per_epoch = len(self.windows) // self.batch_size
        for step in range(self.first_step, self.steps):
            epoch, position = divmod(step, per_epoch)
            order = torch.randperm(
                len(self.windows), generator=torch.Generator().manual_seed(self.seed + epoch)
            )
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield self.as_batch(self.windows[chosen])

    def loader(self) -> DataLoader[dict[str, Tensor]]:
        """A loader that gives each batch as it is."""
        return DataLoader(self, batch_size=None)


def _content(tensor: Tensor, part: str) -> str:
    """The same for parts of one kind that are equal to the byte."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{part}{tuple(tensor.shape)}{tensor.dtype}{hashlib.sha256(data).hexdigest()}"


def _key(name: str, part: str) -> str:
    return f"{name}|{part}".replace(".", "/")  # a ParameterDict's keys must not hold dots
