"""The metric of one weight: what an error in it costs, as codecs take it.

hessian H [columns, columns], row_weight a [rows], error e [rows, columns] -> sum_i a_i e_i H e_i^T
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MetricKind = Literal["identity", "input", "kl"]

_CHUNK = 1 << 22  # elements of an error that are in float32 at a time


@dataclass(frozen=True)
class Metric:
    """What an error in each entry of one weight costs.

    Of the Kronecker product over rows and columns only the diagonal is kept on the side of the rows: so rows
    stay independent of each other, and a codec can code them side by side. Errors of different rows are as
    good as uncorrelated, and then the rest of that factor costs nothing on average.

    Args:
        hessian: ``H``, symmetric float32 ``[columns, columns]``; ``None`` stands for the identity.
        row_weight: ``a``, not negative, float32 ``[rows]`` with mean 1; ``None`` stands for ones.
        kind: What it was made from.
        fallback: Why it is not of the kind that was asked for; empty where it is.
    """

    hessian: Tensor | None = None
    row_weight: Tensor | None = None
    kind: MetricKind = "identity"
    fallback: str = ""

    def cost(self, error: Tensor) -> float:
        """``sum_i a_i e_i H e_i^T``, added up in float64.

        Args:
            error: ``[rows, columns]``, of any float type, on any device.

        Raises:
            ValueError: If it does not fit.

        Example:
            >>> Metric(2 * torch.eye(3), torch.tensor([0.5, 1.5])).cost(torch.ones(2, 3))
            12.0
        """
        wanted = (
            error.shape[0] if self.row_weight is None else len(self.row_weight),
            error.shape[1] if self.hessian is None else len(self.hessian),
        )
        if error.shape != wanted:
            raise ValueError(f"error must be {list(wanted)} to fit the metric, got {list(error.shape)}")
        hessian = None if self.hessian is None else self.hessian.to(error.device, torch.float32)
        rows = max(1, _CHUNK // max(1, error.shape[1]))
        total = 0.0
        for start in range(0, len(error), rows):
            part = error[start : start + rows].detach().float()
            each = ((part if hessian is None else part @ hessian) * part).double().sum(1)
            if self.row_weight is not None:
                each *= self.row_weight[start : start + rows].to(each)
            total += float(each.sum())
        return total

    def problem(self) -> str | None:
        """Why a codec could not use this metric, or ``None``."""
        for part in (self.hessian, self.row_weight):
            if part is None:
                continue
            if not torch.isfinite(part).all():
                return "has NaN or infinite values"
            size = part.diagonal().sum() if part.dim() == 2 else part.sum()
            if not size > 0:
                return "is zero: nothing depends on this weight"
        return None
