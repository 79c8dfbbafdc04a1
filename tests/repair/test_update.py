"""The closed-form update: optimal where it may act, nothing where it may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fulgurite.calibration import PairedMoments
from fulgurite.repair import null_space, output_error, solve, too_few_rows


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(x: Tensor, y: Tensor) -> PairedMoments:
    count = len(x)
    return PairedMoments(x.T @ x / count, x.T @ y / count, y.T @ y / count, x.mean(0), y.mean(0), count)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    """Of a layer in the reference and in a network that errs before it; with a mean, as activations have."""
    x = gaussian(300, 16) @ gaussian(16, 16, seed=1) + 0.5
    return x, x + 0.2 * gaussian(300, 16, seed=2) + 0.1


WEIGHT = gaussian(8, 16, seed=3)
CODED = (WEIGHT * 2).round() / 2


def test_a_free_update_is_least_squares(inputs: tuple[Tensor, Tensor]) -> None:
    x, y = inputs
    update = solve(WEIGHT, CODED, moments_of(x, y), ridge=0)
    fitted = torch.linalg.lstsq(y, x @ WEIGHT.T).solution.T
    torch.testing.assert_close(CODED + update.delta, fitted, rtol=1e-5, atol=1e-6)
    assert update.null_share == 1


def test_errors_are_those_of_the_outputs(inputs: tuple[Tensor, Tensor]) -> None:
    x, y = inputs
    bias, other = gaussian(8, seed=4), gaussian(8, seed=5)
    wanted, found = x @ WEIGHT.T + bias, y @ CODED.T + other
    expected = float((wanted - found).square().sum() / wanted.square().sum())
    assert output_error(WEIGHT, CODED, moments_of(x, y), (bias, other)) == pytest.approx(expected)
    update = solve(WEIGHT, CODED, moments_of(x, y), bias=(bias, other), ridge=0)
    assert update.error_before == pytest.approx(expected)
    assert update.bias is not None
    mended = y @ (CODED + update.delta).T + other + update.bias
    after = float((wanted - mended).square().sum() / wanted.square().sum())
    assert update.error_after == pytest.approx(after)
    with_ones = torch.cat([y, torch.ones(300, 1, dtype=torch.float64)], dim=1)
    best = with_ones @ torch.linalg.lstsq(with_ones, wanted).solution
    assert after == pytest.approx(float((wanted - best).square().sum() / wanted.square().sum()), rel=1e-6)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_what_is_kept_does_not_change(inputs: tuple[Tensor, Tensor], keep: float) -> None:
    x, y = inputs
    kept = gaussian(200, 4, seed=6) @ gaussian(4, 16, seed=7)  # in 4 of 16 dimensions
    basis = null_space(kept.T @ kept, keep)
    update = solve(WEIGHT, CODED, moments_of(x, y), basis=basis)
    values, vectors = torch.linalg.eigh(kept.T @ kept)
    held = vectors[:, basis.shape[1] :]
    assert float(values[basis.shape[1] :].sum() / values.sum()) >= keep
    assert float(values[basis.shape[1] + 1 :].sum() / values.sum()) < keep  # one fewer would hold less
    assert float((update.delta @ held).abs().max()) < 1e-10
    assert update.null_share == basis.shape[1] / 16
    assert 12 / 16 <= update.null_share < 1
    assert update.error_after < update.error_before


def test_the_update_is_that_of_the_paper(inputs: tuple[Tensor, Tensor]) -> None:
    x, y = inputs
    basis = null_space(y.T @ y, 0.8)
    ridge = 0.03
    update = solve(WEIGHT, CODED, moments_of(x, y), basis=basis, ridge=ridge)
    residual, keys = (x @ WEIGHT.T - y @ CODED.T).T, y.T  # R and K1, a column an input
    projector = basis @ basis.T
    second = keys @ keys.T / len(y)
    lam = ridge * second.diagonal().mean()
    right = torch.linalg.inv(second @ projector + lam * torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(update.delta, residual @ keys.T / len(y) @ projector @ right)


def test_nothing_is_changed_where_all_is_kept(inputs: tuple[Tensor, Tensor]) -> None:
    update = solve(WEIGHT, CODED, moments_of(*inputs), basis=null_space(moments_of(*inputs).own, 1.0))
    assert not update.delta.any()
    assert update.null_share == 0


def test_own_inputs_ask_for_the_weight_itself(inputs: tuple[Tensor, Tensor]) -> None:
    update = solve(WEIGHT, CODED, moments_of(*inputs), ridge=0, own_inputs=True)
    torch.testing.assert_close(CODED + update.delta, WEIGHT, rtol=1e-6, atol=1e-6)


def test_settings_out_of_range_are_refused(inputs: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="ridge must not be negative, got -1"):
        solve(WEIGHT, CODED, moments_of(*inputs), ridge=-1)
    with pytest.raises(ValueError, match=r"keep must be in \[0, 1\], got 1.5"):
        null_space(torch.eye(3), 1.5)


def test_too_few_rows_say_how_many_are_needed() -> None:
    assert too_few_rows("a.weight", 64, 64) is None
    assert too_few_rows("a.weight", 1536, 500) == (
        "a.weight: expected at least 1,536 calibration rows for 1,536 inputs, found 500; give 4 times as many"
    )
