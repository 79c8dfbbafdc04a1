"""New codes for an entropy-coded weight whose values are trained: steps, levels and classes stay.

    latent values -> / steps -> Viterbi, at a price that holds the rate -> magnitudes -> values

Reference: Malinovskii et al., "PV-Tuning", NeurIPS 2024, https://arxiv.org/abs/2405.14852, trains codes and continuous
parameters in turns. Differs from the paper: the latent values gather the gradients of many steps, so that those codes
change for which enough has come together, instead of a chosen share at each step.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.codecs._ecq_fit import count_magnitudes, entropy, price, rate_table
from fulgurite.codecs._ecq_solution import Solution, level_table, scales, step_resolution
from fulgurite.codecs._trellis import register

_SPARE = 4  # magnitudes above the largest that a code may take
_SLACK = 1.001  # of the entropy
_ROUNDS = 12
_GROWTH = 1.6  # of the price from round to round


class Assignment:
    """Codes of one weight, to be chosen again and again.

    Args:
        solution: What the weight holds; not modified.
    """

    def __init__(self, solution: Solution) -> None:
        from fulgurite.codecs import _trellis_kernel

        self._kernel = _trellis_kernel
        self.solution = solution
        self._kinds = solution.classes
        counts = count_magnitudes(solution.magnitudes, self._kinds)
        self._entropy = entropy(counts)
        top = int(solution.magnitudes.max()) + _SPARE
        wide = np.zeros((len(counts), top + 1))
        wide[:, : counts.shape[1]] = counts
        self._levels = level_table(solution.level_codes, top, solution.states)
        self._rates = rate_table(wide, top)
        columns, rows = solution.magnitudes.shape
        steps = solution.base * scales(-solution.step_codes, step_resolution(rows))
        self._steps = steps[:, None] * scales(-solution.row_codes, step_resolution(columns))
        if solution.states > 1:
            self._before, self._branch = self._kernel.predecessors(
                solution.states, *register(solution.states)
            )
        else:
            self._before = self._branch = np.zeros((1, 2), np.int32)
        self._price = 0.0

    def assign(self, target: Tensor) -> Tensor:
        """Values of the nearest codes at the current price, ``[in, out]``; the price follows the rate.

        Args:
            target: ``[in, out]``, in units of the weight but for the gains.
        """
        magnitudes, values = self._choose(target)
        full = price(self.solution.states, 2.0)
        if entropy(count_magnitudes(magnitudes, self._kinds)) > _SLACK * self._entropy:
            self._price = max(0.02 * full, _GROWTH * self._price)
        else:
            self._price /= _GROWTH
        return values

    def finish(self, target: Tensor) -> NDArray[np.int32]:
        """Magnitudes for ``target`` that take no more bits than the weight's own."""
        for _ in range(_ROUNDS):
            magnitudes, _ = self._choose(target)
            if entropy(count_magnitudes(magnitudes, self._kinds)) <= self._entropy:
                return magnitudes
            self._price = max(0.02 * price(self.solution.states, 2.0), _GROWTH * self._price)
        return self.solution.magnitudes

    def _choose(self, target: Tensor) -> tuple[NDArray[np.int32], Tensor]:
        scaled = (target.detach().cpu() / self._steps.clamp_min(1e-30)).contiguous().numpy()
        magnitudes = np.zeros(scaled.shape, np.int32)
        values = np.zeros(scaled.shape, np.float32)
        self._kernel.assign_columns(
            scaled,
            self._kinds,
            self._levels,
            self._rates,
            self._price,
            self._before,
            self._branch,
            self.solution.segment,
            magnitudes,
            values,
        )
        return magnitudes, torch.from_numpy(values) * self._steps
