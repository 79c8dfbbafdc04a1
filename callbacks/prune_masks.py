"""Masks of some weights while they train: chosen by score, applied after each step, kept in checkpoints.

weights, scores -> Pattern.drop -> masks -> zeros after each optimiser step; dropped values, for who takes them back
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fulgurite.codecs.pattern import Pattern
from fulgurite.coding import pack_bits, unpack_bits

_ANYWHERE = Pattern()


class PruneMasks:
    """Which entries of each weight are zero.

    Args:
        pattern: Of the zeros.
        per_row: Take the share of each row and not of the whole weight.
        keep_values: Remember what was dropped, so that a lower sparsity gives it back; takes as much memory as the
            weights.
    """

    def __init__(self, pattern: Pattern, *, per_row: bool = False, keep_values: bool = False) -> None:
        self.pattern = pattern
        self.per_row = per_row
        self.keep_values = keep_values
        self.dropped: dict[str, Tensor] = {}
        """Boolean, in each weight's shape."""
        self._values: dict[str, Tensor] = {}

    @property
    def sparsity(self) -> float:
        """Share of zeros over all masked weights."""
        total = sum(mask.numel() for mask in self.dropped.values())
        return sum(int(mask.sum()) for mask in self.dropped.values()) / total if total else 0.0

    @torch.no_grad()
    def choose(
        self,
        weights: Mapping[str, Tensor],
        share: float,
        costs: Mapping[str, Tensor],
        agree: Callable[[Any], Any] = lambda given: given,
    ) -> None:
        """Choose masks anew and apply them.

        Of a pattern N:M with more zeros than ``share``, the lowest of those that it drops go first.

        Args:
            weights: By name, ``[out, ...]`` each.
            share: Of zeros.
            costs: What each input of a weight is worth, ``[in]``, by name; a weight may have none.
            agree: Gives rank 0's masks to all ranks.
        """
        chosen = {}
        for name, weight in weights.items():
            values = self._remembered(name, weight)
            scores = _matrix(values).abs().float()
            if name in costs:
                scores = scores * costs[name].sqrt()
            chosen[name] = self._drop(scores, share, per_row=self.per_row and name in costs)
        packed = agree({name: pack_bits(mask.to(torch.uint8), 1).cpu() for name, mask in chosen.items()})
        for name, weight in weights.items():
            before, values = self.dropped.get(name), self._remembered(name, weight)
            now = _unpacked(packed[name], weight)
            if before is not None and self.keep_values:
                weight.copy_(torch.where(before & ~now, values, weight))
            if self.keep_values:
                self._values[name] = values.masked_fill(~now, 0)
            self.dropped[name] = now
        self.apply(weights)

    @torch.no_grad()
    def apply(self, weights: Mapping[str, Tensor]) -> None:
        """Set what is masked to zero, in place."""
        for name, mask in self.dropped.items():
            weights[name].masked_fill_(mask, 0)

    def _drop(self, scores: Tensor, share: float, per_row: bool) -> Tensor:
        own = self.pattern.share
        dropped = self.pattern.drop(scores, share, per_row=per_row)
        if own is None or share >= own - 1e-9:
            return dropped
        return _ANYWHERE.drop(scores.masked_fill(~dropped, torch.inf), share, per_row=per_row) & dropped

    def _remembered(self, name: str, weight: Tensor) -> Tensor:
        """The weight, with what was dropped in its place again."""
        if name not in self._values:
            return weight.detach().clone()
        return torch.where(self.dropped[name], self._values[name], weight.detach())

    def state_dict(self) -> dict[str, Any]:
        """Masks of a bit an entry, and the dropped values where they are remembered; all on the CPU."""
        return {
            "masks": {name: pack_bits(mask.to(torch.uint8), 1).cpu() for name, mask in self.dropped.items()},
            "values": {name: values[self.dropped[name]].cpu() for name, values in self._values.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Invert ``state_dict``, on the weights' devices.

        Raises:
            ValueError: If the masks are those of other weights.
        """
        if state["masks"] and set(state["masks"]) != set(weights):
            odd = sorted(set(state["masks"]) ^ set(weights))
            raise ValueError(
                f"the checkpoint's masks must be of the {len(weights)} selected weights; not in both: {odd[:3]}"
            )
        self.dropped = {name: _unpacked(packed, weights[name]) for name, packed in state["masks"].items()}
        self._values = {}
        for name, values in state["values"].items():
            whole = torch.zeros_like(weights[name])
            whole[self.dropped[name]] = values.to(whole.device)
            self._values[name] = whole


def _matrix(weight: Tensor) -> Tensor:
    return weight.reshape(1, -1) if weight.dim() < 2 else weight.flatten(1)


def _unpacked(packed: Tensor, weight: Tensor) -> Tensor:
    return unpack_bits(packed, 1, weight.numel()).bool().reshape(weight.shape).to(weight.device)
