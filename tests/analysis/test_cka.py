"""Linear CKA: what it does not see, what it does, and that minibatches make no difference."""

import math

import pytest
import torch
from torch import Tensor

from fulgurite.analysis.cka import LinearCKA, linear_cka


def by_kernels(x: Tensor, y: Tensor) -> float:
    """Debiased CKA as Song et al. write it, by kernels without their diagonal."""

    def hsic(k: Tensor, m: Tensor) -> float:
        n = len(k)
        k, m = k.clone().fill_diagonal_(0), m.clone().fill_diagonal_(0)
        ones = torch.ones(n, dtype=k.dtype)
        trace, inner = (k @ m).trace(), ones @ k @ m @ ones
        total = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return float(trace + total - 2 / (n - 2) * inner) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def pair(n: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 5, dtype=torch.float64)
    return x, x @ torch.randn(5, 7, dtype=torch.float64) + torch.randn(n, 7, dtype=torch.float64)


def test_debiased_value_is_that_of_the_kernels_by_minibatches_too() -> None:
    x, y = pair()
    cka = LinearCKA()
    for begin, end in ((0, 1), (1, 24), (24, 40)):  # parts of unequal size, one item among them
        cka.update(x[begin:end], y[begin:end])
    assert cka.value == pytest.approx(by_kernels(x, y), rel=1e-9)
    assert linear_cka(x, y) == pytest.approx(cka.value, rel=1e-9)


def test_biased_value_of_two_columns_is_their_squared_correlation() -> None:
    x, y = torch.randn(30, 1), torch.randn(30, 1)
    correlation = torch.corrcoef(torch.cat([x, y], 1).T)[0, 1]
    assert linear_cka(x, y, debiased=False) == pytest.approx(float(correlation) ** 2, rel=1e-4)


@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_scale_and_shift_are_not_seen(debiased: bool) -> None:
    x, y = pair()
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0]
    before = linear_cka(x, y, debiased)
    assert linear_cka(x, 3 * y @ rotation + 100, debiased) == pytest.approx(before, rel=1e-8)
    assert linear_cka(y, 3 * y @ rotation, debiased) == pytest.approx(1)


def test_another_linear_map_is_seen() -> None:
    x, _ = pair()
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1])
    assert linear_cka(x, stretched) < 0.9


def test_unrelated_representations_wider_than_items_look_alike_unless_debiased() -> None:
    x, y = torch.randn(20, 200), torch.randn(20, 200)
    assert linear_cka(x, y, debiased=False) > 0.8
    assert abs(linear_cka(x, y)) < 0.2


def test_what_does_not_vary_has_no_value() -> None:
    assert math.isnan(linear_cka(torch.ones(10, 3), torch.randn(10, 3)))


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 items, got 3"):
        _ = linear_cka(torch.randn(3, 2), torch.randn(3, 2))


@pytest.mark.parametrize(("x", "y"), [((4, 2), (5, 2)), ((4,), (4, 2))])
def test_items_that_do_not_pair_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="items must be"):
        LinearCKA().update(torch.randn(*x), torch.randn(*y))


def test_other_widths_are_refused() -> None:
    cka = LinearCKA()
    cka.update(torch.randn(4, 2), torch.randn(4, 3))
    with pytest.raises(ValueError, match="stay 2 and 3 wide, got 2 and 4"):
        cka.update(torch.randn(4, 2), torch.randn(4, 4))
