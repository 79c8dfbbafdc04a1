"""The rotation is orthogonal, has an inverse, and spreads what stands out."""

import pytest
import torch

from fulgurite.transforms import rotate, unrotate
from fulgurite.transforms.hadamard import random_signs


@pytest.mark.parametrize("length", [1, 2, 7, 64, 172, 384])  # 172 and 384: no powers of two
def test_unrotate_inverts_rotate(length: int) -> None:
    values = torch.randn(5, length, generator=torch.Generator().manual_seed(0))
    rotated = rotate(values, seed=3)
    torch.testing.assert_close(unrotate(rotated, seed=3), values)
    torch.testing.assert_close(rotated.norm(dim=1), values.norm(dim=1))


def test_the_input_is_not_modified() -> None:
    values = torch.randn(3, 8)
    kept = values.clone()
    rotate(values, seed=0)
    unrotate(values, seed=0)
    assert torch.equal(values, kept)


def test_an_outlier_is_spread_over_all() -> None:
    spike = torch.zeros(384)
    spike[5] = 1.0
    # the first block of 256 leaves 1/16 in each place; 128 of these are rotated once more, at random
    assert rotate(spike, seed=1).abs().max() < 0.2


def test_signs_are_the_same_everywhere() -> None:
    # SplitMix64 of seed 0 begins with 0xe220a8397b1dcdaf
    bits = [0xE220A8397B1DCDAF >> place & 1 for place in range(64)]
    assert random_signs(64, seed=0).tolist() == [1.0 if bit else -1.0 for bit in bits]
    assert random_signs(100, seed=0)[:64].tolist() == random_signs(64, seed=0).tolist()
