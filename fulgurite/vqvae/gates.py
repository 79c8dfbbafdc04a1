"""Gates that learn which tokens are worth their bits.

logits -> sigmoid above 1/2 -> 1 or 0; the gradient is the sigmoid's (straight through)
loss + price * open bits per feature; the price rises while more bits are open than the budget has

References: straight-through gradients: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons
for Conditional Computation", 2013, https://arxiv.org/abs/1308.3432; gates with a price on what is open: Louizos et al.,
"Learning Sparse Neural Networks through L0 Regularization", ICLR 2018, https://arxiv.org/abs/1712.01312. Differs from
the latter: no noise, and a price that is moved until the budget is met (dual ascent).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_OPEN = 2.0  # logit at the start: the sigmoid is 0.88, and its slope is not yet small


class TokenGates(nn.Module):
    """A gate for each token of a level.

    Args:
        tokens: Their number.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((tokens,), _OPEN))

    def forward(self) -> Tensor:
        """1 or 0 for each token, with the sigmoid's gradient, ``[tokens]``."""
        soft = self.logits.sigmoid()
        hard = (self.logits > 0).float()
        return hard + soft - soft.detach()

    def open_places(self) -> Tensor:
        """Places of the open ones."""
        return torch.nonzero(self.logits.detach() > 0)[:, 0]

    @torch.no_grad()
    def keep(self, count: int) -> None:
        """Leave the best ``count`` open and close the others for good."""
        order = self.logits.argsort(descending=True, stable=True)
        self.logits.copy_(torch.full_like(self.logits, -_OPEN))
        self.logits[order[:count]] = _OPEN


class Price:
    """What an open bit costs: raised while the budget is exceeded, lowered while there is room.

    Args:
        budget: Bits of a row.
        step: Change of the logarithm for each step in which all is open twice over.
    """

    def __init__(self, budget: float, step: float = 0.02) -> None:
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
