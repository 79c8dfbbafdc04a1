r"""Grokfast's gradient filter: amplify what stays the same from step to step.

    g_t -> EMA: m_t = alpha m_{t-1} + (1 - alpha) g_t, m_0 = g_0 -> g_t + lamb m_t
        \-> MA: m_t = mean of the last w gradients, once there are w -> g_t + lamb m_t

Reference: Lee et al., "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", 2024,
https://arxiv.org/abs/2405.20233, algorithms 1 and 2; the authors' code is
https://github.com/ironjr/grokfast. Equal to it, up to the order of summation in MA.

A constant gradient comes out (1 + lamb) times as large, one of alternating sign almost as it was: a
low-frequency boost. So a comparison with a plain run compares two learning rates as well, which is
why ``Grokfast(learning_rate_control=True)`` exists. Outside of grokking the published evidence is
neutral to negative: measure it before you rely on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

FILTERS = ("ema", "ma")


class GradientFilter:
    """Adds ``lamb`` times the slow part of each gradient to it, in place.

    The paper's settings: EMA ``alpha=0.98, lamb=2`` and MA ``window=100, lamb=5`` on modular
    arithmetic, EMA ``alpha=0.8, lamb=0.1`` on MNIST. Extra memory: one copy of the gradients (EMA) or
    ``window`` copies (MA).

    Args:
        filter: ``ema`` or ``ma``.
        alpha: Momentum of the EMA, in [0, 1).
        lamb: Weight of the slow part, at least 0.
        window: Gradients in the MA.
        warmup: Whether the MA waits until it has ``window`` gradients; otherwise it starts with those
            that there are. The EMA has no warm-up.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.ones(2)
        >>> GradientFilter(lamb=2.0).apply_([("weight", weight)])
        >>> weight.grad
        tensor([3., 3.])
    """

    def __init__(
        self,
        filter: str = "ema",
        alpha: float = 0.98,
        lamb: float = 2.0,
        window: int = 100,
        warmup: bool = True,
    ) -> None:
        if filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}, got {filter!r}")
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {alpha}")
        if not 0 <= lamb < float("inf"):
            raise ValueError(f"lamb must be at least 0 and finite, got {lamb}")
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.filter = filter
        self.alpha = alpha
        self.lamb = lamb
        self.window = window
        self.warmup = warmup
        self._slow: dict[str, Tensor] = {}  # EMA: [*shape]; MA: ring of gradients [window, *shape]
        self._count: dict[str, int] = {}  # gradients seen

    @torch.no_grad()
    def apply_(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Filter the gradient of every parameter that has one; call it once per optimiser step.

        Args:
            parameters: Unique names and parameters; a parameter may be missing at some steps.
        """
        for name, parameter in parameters:
            if parameter.grad is not None:
                slow = self._average(name, parameter.grad)
                if slow is not None:
                    parameter.grad.add_(slow, alpha=self.lamb)

    def _average(self, name: str, gradient: Tensor) -> Tensor | None:
        count = self._count.get(name, 0)
        self._count[name] = count + 1
        if self.filter == "ema":
            if name not in self._slow:
                self._slow[name] = gradient.clone()
            else:
                self._slow[name].mul_(self.alpha).add_(gradient, alpha=1 - self.alpha)
            return self._slow[name]
        if name not in self._slow:
            self._slow[name] = gradient.new_zeros(self.window, *gradient.shape)
        ring = self._slow[name]
        ring[count % self.window] = gradient
        held = min(count + 1, self.window)
        if self.warmup and held < self.window:
            return None
        # a fresh mean, not a running sum: no drift over long runs, and a resume is exact
        return ring[:held].mean(0)

    def state_dict(self) -> dict[str, Any]:
        """Averages and counts, so that a resumed run filters as the uninterrupted one."""
        return {"filter": self.filter, "slow": dict(self._slow), "count": dict(self._count)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str | None = None) -> None:
        """Take over what ``state_dict`` gave.

        Args:
            state: The stored state.
            device: Where the gradients are.

        Raises:
            ValueError: If the state is of the other filter or another window.
        """
        if state["filter"] != self.filter:
            raise ValueError(f"the checkpoint's filter is {state['filter']!r}, now {self.filter!r}")
        for name, slow in state["slow"].items():
            if self.filter == "ma" and len(slow) != self.window:
                raise ValueError(f"the checkpoint's window is {len(slow)} for {name}, now {self.window}")
        self._slow = {name: slow.to(device, copy=True) for name, slow in state["slow"].items()}
        self._count = dict(state["count"])
