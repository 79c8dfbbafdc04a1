"""The basis of a product's singular pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fulgurite.transforms import principal_basis


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_product_stays_and_its_truncation_costs_what_is_left_out() -> None:
    left, right = gaussian(6, 20, seed=0), gaussian(6, 15, seed=1)
    basis = principal_basis(left, right)
    turned, other = basis.left @ left, basis.right @ right
    product = left.T @ right
    torch.testing.assert_close(turned.T @ other, product)
    expected = torch.linalg.svdvals(product)
    torch.testing.assert_close(basis.values, expected[:6])
    for rank in range(6):
        lost = (product - turned[:rank].T @ other[:rank]).square().sum()
        torch.testing.assert_close(
            lost, expected[rank:].square().sum()
        )  # Eckart and Young: no other does better


def test_rows_that_a_product_does_not_have_are_zeros() -> None:
    left, right = gaussian(4, 9, seed=0), gaussian(4, 9, seed=1)
    left[3], right[2] = left[1], 0  # ranks 3 and 3; of the product 2 or 3
    basis = principal_basis(left, right)
    rank = int(torch.linalg.matrix_rank(left.T @ right))
    assert rank < 4
    assert bool((basis.left[rank:] == 0).all())
    assert bool((basis.values[rank:] == 0).all())
    torch.testing.assert_close((basis.left @ left).T @ (basis.right @ right), left.T @ right)


def test_a_product_of_zeros_has_no_pair() -> None:
    basis = principal_basis(torch.zeros(3, 5), gaussian(3, 5, seed=0))
    assert float(basis.left.abs().sum() + basis.right.abs().sum() + basis.values.sum()) == 0


def test_weights_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="as many rows, got 3 and 4"):
        principal_basis(torch.ones(3, 9), torch.ones(4, 9))
    with pytest.raises(ValueError, match="at least 4 columns, as there are rows, got 3 and 9"):
        principal_basis(torch.ones(4, 3), torch.ones(4, 9))
