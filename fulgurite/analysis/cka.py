"""Linear centred kernel alignment: whether two networks hold the same items apart in the same way.

    x [n, d], y [n, e] by minibatches -> moments -> HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) -> 0 to 1

References: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
https://arxiv.org/abs/1905.00414, section 3; the unbiased HSIC of Song et al., "Feature Selection via Dependence
Maximization", JMLR 2012, https://arxiv.org/abs/1206.1077 (0709.2910), equation 5, which Nguyen et al., ICLR 2021,
https://arxiv.org/abs/2010.15327, use over minibatches.
Differs from these: with a linear kernel every term of the unbiased estimate is a polynomial of sums over items, so
sums are kept and not kernels. The result is that of all items at once, exactly, and not a mean over minibatches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Sums:
    """Of pairs ``(x, y)``, float64; ``a = |x|^2`` and ``b = |y|^2``."""

    cross: Tensor  # sum of x y^T
    x: Tensor
    y: Tensor
    x_by_b: Tensor  # sum of b x
    y_by_a: Tensor
    a: float = 0.0
    b: float = 0.0
    ab: float = 0.0

    @classmethod
    def of(cls, wide: int, other: int, device: torch.device) -> _Sums:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return cls(zeros(wide, other), zeros(wide), zeros(other), zeros(wide), zeros(other))

    def add(self, x: Tensor, y: Tensor) -> None:
        a, b = x.square().sum(1), y.square().sum(1)
        self.cross += x.T @ y
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.x_by_b += b @ x
        self.y_by_a += a @ y
        self.a += float(a.sum())
        self.b += float(b.sum())
        self.ab += float(a @ b)

    def unbiased(self, n: int) -> float:
        """Song's estimate, times ``n (n - 3)``; kernels have no diagonal."""
        trace = float(self.cross.square().sum()) - self.ab
        total = (float(self.x @ self.x) - self.a) * (float(self.y @ self.y) - self.b)
        inner = (
            float(self.x @ self.cross @ self.y)
            - float(self.x @ self.x_by_b)
            - float(self.y @ self.y_by_a)
            + self.ab
        )
        return trace + total / ((n - 1) * (n - 2)) - 2 * inner / (n - 2)

    def biased(self, n: int) -> float:
        """Times ``(n - 1)^2``: the squared norm of the centred cross moments."""
        return float((self.cross - torch.outer(self.x, self.y) / n).square().sum())


class LinearCKA:
    """Linear CKA of two representations, added up over minibatches in memory that does not grow with items.

    Args:
        debiased: Use the unbiased HSIC, which tells few items from many; without, wide representations of few
            items look alike whatever they are.

    Example:
        >>> x = torch.randn(50, 6)
        >>> cka = LinearCKA()
        >>> for part in x.split(20):
        ...     cka.update(part, 3 * part)
        >>> round(cka.value, 6)
        1.0
    """

    def __init__(self, debiased: bool = True) -> None:
        self.debiased = debiased
        self.count = 0
        self._pairs: tuple[_Sums, _Sums, _Sums] | None = None
        self._shift: tuple[Tensor, Tensor] | None = None

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add items.

        Args:
            x: Of one network, ``[n, d]``.
            y: The same items of the other, ``[n, e]``.

        Raises:
            ValueError: If the two are not matrices of as many items, or widths have changed.
        """
        if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
            raise ValueError(f"items must be [n, d] and [n, e], got {list(x.shape)} and {list(y.shape)}")
        if len(x) == 0:
            return
        x, y = x.double(), y.double()
        if self._pairs is None or self._shift is None:
            # CKA does not see a shift; without one, a large common mean would eat the digits of the sums
            self._shift = (x.mean(0), y.mean(0))
            wide, other = x.shape[1], y.shape[1]
            self._pairs = tuple(
                _Sums.of(*sizes, x.device) for sizes in ((wide, other), (wide,) * 2, (other,) * 2)
            )  # type: ignore[assignment]
            assert self._pairs is not None
        if x.shape[1] != len(self._shift[0]) or y.shape[1] != len(self._shift[1]):
            raise ValueError(
                f"items must stay {len(self._shift[0])} and {len(self._shift[1])} wide, "
                f"got {x.shape[1]} and {y.shape[1]}"
            )
        x, y = x - self._shift[0], y - self._shift[1]
        for sums, left, right in zip(self._pairs, (x, x, y), (y, x, y), strict=True):
            sums.add(left, right)
        self.count += len(x)

    @property
    def value(self) -> float:
        """1 for representations that are equal up to rotation and scale; debiased, about 0 for unrelated ones.

        NaN where one of the two does not vary.

        Raises:
            ValueError: If there are too few items: 4 are needed for the unbiased estimate, 2 for the other.
        """
        least = 4 if self.debiased else 2
        if self._pairs is None or self.count < least:
            raise ValueError(f"CKA needs at least {least} items, got {self.count}")
        cross, own, other = (
            sums.unbiased(self.count) if self.debiased else sums.biased(self.count) for sums in self._pairs
        )
        scale = own * other
        return cross / math.sqrt(scale) if own > 0 and other > 0 and scale > 0 else math.nan


def linear_cka(x: Tensor, y: Tensor, debiased: bool = True) -> float:
    """Linear CKA of two representations of the same items, ``[n, d]`` and ``[n, e]``.

    Raises:
        ValueError: As ``LinearCKA`` does.
    """
    cka = LinearCKA(debiased)
    cka.update(x, y)
    return cka.value
