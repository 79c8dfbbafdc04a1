"""Values behind codes: what gradients move, so that the codes can follow.

    latent -> Assigner -> coded values, every so many steps
    forward: coded values;  backward: the gradient goes to the latent as it is (straight through)

Reference: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013,
https://arxiv.org/abs/1308.3432, for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fulgurite.codecs import CODECS, Encoded
from fulgurite.codecs.base import Assigner


class Latents(nn.Module):
    """Latent values of the weights whose codec can choose codes anew; the coded values are kept beside them.

    Args:
        encoded: Weights whose codes are to be trained; those of codecs that cannot are left out.
        expanded: The expanded form of at least these.
    """

    def __init__(self, encoded: Mapping[str, Encoded], expanded: Mapping[str, Encoded]) -> None:
        super().__init__()
        self._assigners: dict[str, Assigner] = {}
        self._latents = nn.ParameterDict()
        for name, entry in encoded.items():
            assigner = CODECS[entry.codec].assigner(entry)
            if assigner is None:
                continue
            self._assigners[name] = assigner
            values = expanded[name].tensors["values"].detach().float()
            self._latents[_key(name)] = nn.Parameter(values.clone())
            # part of a checkpoint: which codes were chosen last cannot be told from the latents of today
            self.register_buffer(_key(name), values.clone())

    def values(self) -> Iterator[nn.Parameter]:
        """The latents, for an optimiser."""
        return iter(self._latents.values())

    def parts(self, name: str) -> dict[str, Tensor]:
        """The expanded part that replaces a weight's own, or nothing."""
        if name not in self._assigners:
            return {}
        latent, coded = self._latents[_key(name)], self.get_buffer(_key(name))
        return {"values": coded + (latent - latent.detach())}

    @torch.no_grad()
    def reassign(self) -> None:
        """Let all codes follow their latents."""
        for name, assigner in self._assigners.items():
            self.get_buffer(_key(name)).copy_(assigner.assign(self._latents[_key(name)].detach()))

    def finish(self) -> dict[str, Encoded]:
        """The weights with their last codes, none in more bits than it had."""
        return {
            name: assigner.finish(self._latents[_key(name)].detach())
            for name, assigner in self._assigners.items()
        }


def _key(name: str) -> str:
    return name.replace(".", "/")  # names of parameters and buffers must not hold dots
