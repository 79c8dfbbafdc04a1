"""Gates that learn which tokens are worth their bits.

logits -> sigmoid -> in training drawn for each row, else above 1/2 -> 1 or 0; the gradient is the sigmoid's
loss + price * open bits per feature; the price rises while more bits are open than the budget has
budget met -> settled: nothing is drawn or learned any more, the network goes on with what is left

References: gradients through drawn gates: Bengio et al., "Estimating or Propagating Gradients Through Stochastic
Neurons for Conditional Computation", 2013, https://arxiv.org/abs/1308.3432; gates with a price on what is open:
Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018,
https://arxiv.org/abs/1712.01312. Differs from the latter: a price that is moved until the budget is met (dual ascent).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_OPEN = 2.0  # logit at the start: the sigmoid is 0.88, and its slope is not yet small
# AdamW moves a number by about the learning rate a step: too little to close a gate in some hundred steps
_SPEED = 50.0


class TokenGates(nn.Module):
    """A gate for each token of a level.

    Args:
        tokens: Their number.
    """

    settled: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.slow_logits = nn.Parameter(torch.full((tokens,), _OPEN / _SPEED))
        self.register_buffer("settled", torch.tensor(False))

    @property
    def logits(self) -> Tensor:
        """Above 0 is open."""
        return self.slow_logits * _SPEED

    def forward(self) -> Tensor:
        """1 or 0 for each token, with the sigmoid's gradient, ``[tokens]``."""
        return self._through((self.logits > 0).float())

    def drawn(self, rows: int) -> Tensor:
        """1 or 0 for each row and token, by chance until settled, ``[rows, tokens]``.

        What a token is worth shows where it is missing: where all are open a decoder that has learned its best has no
        gradient to tell.
        """
        if self.settled:
            return self.forward().expand(rows, -1)
        return self._through(torch.bernoulli(self.logits.detach().sigmoid().expand(rows, -1)))

    def _through(self, hard: Tensor) -> Tensor:
        soft = self.logits.sigmoid() * (0.0 if self.settled else 1.0)
        found: Tensor = hard + soft - soft.detach()
        return found

    def open_places(self) -> Tensor:
        """Places of the open ones."""
        return torch.nonzero(self.logits.detach() > 0)[:, 0]

    @torch.no_grad()
    def settle(self, places: Sequence[int]) -> None:
        """Leave these open and close the others for good."""
        self.slow_logits.fill_(-_OPEN / _SPEED)
        self.slow_logits[list(places)] = _OPEN / _SPEED
        self.settled.fill_(True)


class Price:
    """What an open bit costs: raised while the budget is exceeded, lowered while there is room.

    Args:
        budget: Bits of a row.
        step: Change of the logarithm for each step in which all is open twice over.
    """

    def __init__(self, budget: float, step: float = 0.05) -> None:
        if budget <= 0:
            raise ValueError(f"budget must be above 0, got {budget}")
        self.budget = budget
        self.step = step
        self.value = 1e-3

    def update(self, open_bits: float) -> float:
        """Move the price once; the new one."""
        change = self.step * max(-1.0, min(1.0, open_bits / self.budget - 1))
        self.value = min(1e3, max(1e-6, self.value * math.exp(change)))
        return self.value
