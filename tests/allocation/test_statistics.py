"""Statistics of spectra that are known."""

import math

import pytest
import torch

from fulgurite.allocation import statistics_of


def test_orthogonal_rows_use_all_dimensions() -> None:
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=torch.manual_seed(0)))[0]
    known = statistics_of(3 * rotation)
    assert known.variance == pytest.approx(9 / 24)  # each row has length 3
    assert known.dimensionality == pytest.approx(1.0, rel=1e-5)
    assert known.information == pytest.approx(9 / 24, rel=1e-5)  # flat: the entropy power is the mean square


def test_rank_one_uses_one_dimension() -> None:
    known = statistics_of(torch.outer(torch.ones(16), torch.arange(1.0, 33.0)))
    assert known.dimensionality == pytest.approx(1 / 16)
    assert known.information < 1e-4 * known.variance  # nothing in the others, down to the floor of 1e-6


def test_a_known_spectrum() -> None:
    known = statistics_of(torch.diag(torch.tensor([4.0, 1.0])))  # squared singular values 16 and 1
    assert known.dimensionality == pytest.approx((16 + 1) ** 2 / (16**2 + 1) / 2)
    assert known.information == pytest.approx(math.sqrt(16 * 1) / 2)  # geometric mean, over two rows


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_the_metric_counts_on_either_side(shape: tuple[int, int]) -> None:
    """The same numbers from the matrix that the metric's roots make of the weight."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(shape), torch.randn(50, shape[1])
    hessian, row_weight = inputs.T @ inputs / 50, torch.rand(shape[0]) + 0.1
    values, vectors = torch.linalg.eigh(hessian)
    root = vectors * values.sqrt() @ vectors.T
    found = statistics_of(weight, hessian, row_weight)
    expected = statistics_of(row_weight.sqrt()[:, None] * weight @ root)
    assert found.dimensionality == pytest.approx(expected.dimensionality, rel=1e-4)
    assert found.information == pytest.approx(expected.information, rel=1e-4)
    assert found.variance == pytest.approx(float(weight.square().mean()))  # of the weights themselves


def test_a_tall_weight_is_sampled_and_a_vector_is_a_row() -> None:
    tall = torch.randn(5000, 8, generator=torch.manual_seed(0))
    # 8 equal directions; of 1000 rows a share of 1 - O(8 / 1000) is seen
    assert statistics_of(tall).dimensionality == pytest.approx(1.0, abs=0.05)
    assert statistics_of(torch.ones(7)).dimensionality == 1.0
