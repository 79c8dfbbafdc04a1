"""Pictures are changed as seed, epoch and index say, whatever batch they come in."""

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.images.augmentation import augmented


@pytest.fixture
def pixels() -> Tensor:
    # each value another, so that a moved pixel is recognised: 2 pictures of 3 x 16 x 24 would be over 255
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 3, 16, 24), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("augment", ["flip", "crop_flip", "trivial"])
def test_a_picture_changes_in_the_same_way_in_any_batch(augment: Any, pixels: Tensor) -> None:
    before = pixels.clone()
    whole = augmented(pixels, augment, 5, [2] * 40, range(40))
    assert torch.equal(pixels, before), "what is cached is left as it is"
    assert whole.dtype == torch.uint8
    assert not torch.equal(whole, pixels)
    some = [30, 3, 17]
    assert torch.equal(augmented(pixels[some], augment, 5, [2] * 3, some), whole[some])
    assert not torch.equal(augmented(pixels, augment, 6, [2] * 40, range(40)), whole)
    assert not torch.equal(augmented(pixels, augment, 5, [3] * 40, range(40)), whole)


def test_flip_mirrors_about_half_of_the_pictures(pixels: Tensor) -> None:
    many = pixels.repeat(50, 1, 1, 1)
    changed = augmented(many, "flip", 0, [0] * len(many), range(len(many)))
    flipped = (changed == many.flip(3)).flatten(1).all(1)
    assert ((changed == many).flatten(1).all(1) ^ flipped).all()
    assert 900 < int(flipped.sum()) < 1100  # 2000 draws: five standard deviations are 112


def test_crop_flip_moves_by_at_most_an_eighth_and_mirrors_the_edge(pixels: Tensor) -> None:
    changed = augmented(pixels, "crop_flip", 0, [0] * 40, range(40))
    # 16 rows: 2 up or down; 24 columns: 3 to either side
    padded = torch.nn.functional.pad(pixels.float(), (3, 3, 2, 2), mode="reflect").byte()
    seen = set()
    for picture, wide in zip(changed, padded, strict=True):
        places = [
            (top, left, flip)
            for top in range(5)
            for left in range(7)
            for flip in (False, True)
            if torch.equal(picture.flip(2) if flip else picture, wide[:, top : top + 16, left : left + 24])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {top for top, _, _ in seen} == set(range(5))
    assert {left for _, left, _ in seen} == set(range(7))


def test_trivial_leaves_the_global_generator_alone(pixels: Tensor) -> None:
    state = torch.get_rng_state()
    augmented(pixels[:2], "trivial", 0, [0, 0], [0, 1])
    assert torch.equal(torch.get_rng_state(), state)


def test_none_does_nothing(pixels: Tensor) -> None:
    assert augmented(pixels, "none", 0, [0] * 40, range(40)) is pixels


@pytest.mark.parametrize("augment", ["flip", "crop_flip", "trivial"])
def test_no_pictures_and_tiny_ones_are_allowed(augment: Any) -> None:
    assert augmented(torch.empty(0, 3, 8, 8, dtype=torch.uint8), augment, 0, [], []).shape == (0, 3, 8, 8)
    tiny = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)  # an eighth of two pixels is none
    if augment != "trivial":
        assert torch.equal(augmented(tiny, augment, 0, [0], [0]), tiny)
