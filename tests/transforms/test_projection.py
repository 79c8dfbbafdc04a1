"""Directions that are taken out of a weight's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fulgurite.transforms import contrast_directions, project_out


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_outputs_lose_the_directions_and_nothing_else() -> None:
    directions, _ = contrast_directions(gaussian(10, 12), 3)
    weight, bias, inputs = gaussian(12, 8, seed=1), gaussian(12, seed=2), gaussian(50, 8, seed=3)
    before = inputs @ weight.T + bias
    after = inputs @ project_out(weight, directions).T + project_out(bias, directions)
    along = directions.float()
    assert float((after @ along).abs().max()) < 1e-5  # float32; before they are about 3
    assert float((before @ along).abs().max()) > 1
    rest = before - (before @ along) @ along.T
    torch.testing.assert_close(after, rest, rtol=0, atol=1e-5)


def test_a_transposed_weight_puts_out_its_columns() -> None:
    directions, _ = contrast_directions(gaussian(10, 12), 3)
    weight = gaussian(12, 8, seed=1)
    torch.testing.assert_close(
        project_out(weight.T, directions, outputs=1), project_out(weight, directions).T, rtol=0, atol=1e-6
    )


def test_the_directions_are_those_of_the_largest_difference() -> None:
    basis = torch.linalg.qr(gaussian(12, 12))[0]
    differences = gaussian(40, 2, seed=1) * torch.tensor([9.0, 4.0]) @ basis[:2] + 0.01 * gaussian(
        40, 12, seed=2
    )
    found, share = contrast_directions(differences, 2)
    projector = found @ found.T
    torch.testing.assert_close(projector.float(), basis[:2].T @ basis[:2], rtol=0, atol=0.01)
    assert 0.99 < share < 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank must be in \[1, 3\], of 3 differences, got 4"):
        contrast_directions(gaussian(3, 12), 4)
    with pytest.raises(ValueError, match="differences have fewer than 2 directions"):
        contrast_directions(gaussian(5, 1) @ gaussian(1, 12), 2)
    with pytest.raises(ValueError, match="differences have fewer than 1 directions"):
        contrast_directions(torch.zeros(5, 12), 1)
    with pytest.raises(ValueError, match="directions have 12 dimensions, the weight puts out 8"):
        project_out(gaussian(8, 12), contrast_directions(gaussian(5, 12), 1)[0])
