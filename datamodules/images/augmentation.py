"""Random changes of training pictures, on batches of bytes.

    uint8 [n, 3, h, w] -> (TrivialAugment) -> shifted cut of the mirrored edge -> flip -> uint8 [n, 3, h, w]

Reference: Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021,
https://arxiv.org/abs/2103.10158, by torchvision's ``TrivialAugmentWide``; shift and flip as in He et al.,
https://arxiv.org/abs/1512.03385, section 4.2, but by an eighth of the side, and with a mirrored edge instead of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.images import chance

Augment = Literal["none", "flip", "crop_flip", "trivial"]
"""Nothing; a flip of every second picture; a shift and a flip; a random operation, a shift and a flip."""
_SHIFT = 8  # a picture moves by at most this part of its side: 4 pixels of 32


def augmented(
    pixels: Tensor, augment: Augment, seed: int, epochs: Sequence[int], indices: Sequence[int], fill: int = 0
) -> Tensor:
    """Change each picture as seed, epoch and its index say.

    Args:
        pixels: uint8 ``[n, 3, h, w]``; left as it is.
        augment: What is done.
        seed: Seed of the run.
        epochs: Epoch of each picture.
        indices: Index of each picture in its split.
        fill: Grey that rotations and shears bring in.
    """
    if augment == "none" or not len(pixels):
        return pixels
    if augment == "trivial":
        pixels = _trivial(pixels, seed, epochs, indices, fill)
    if augment != "flip":
        pixels = _shifted(pixels, seed, epochs, indices)
    flip = torch.from_numpy(chance.below(chance.draw(seed, epochs, indices, chance.FLIP), 2) == 1)
    return torch.where(flip[:, None, None, None], pixels.flip(3), pixels)


def _shifted(pixels: Tensor, seed: int, epochs: Sequence[int], indices: Sequence[int]) -> Tensor:
    height, width = pixels.shape[2:]
    down, right = height // _SHIFT, width // _SHIFT
    # no padding of bytes with a mirrored edge in every torch; a gather of rows and columns is as fast
    rows = _mirrored(height, down)
    columns = _mirrored(width, right)
    wide = pixels[:, :, rows][:, :, :, columns]
    tops = chance.below(chance.draw(seed, epochs, indices, chance.ROW), 2 * down + 1).tolist()
    lefts = chance.below(chance.draw(seed, epochs, indices, chance.COLUMN), 2 * right + 1).tolist()
    cut = torch.empty_like(pixels)
    for place, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        cut[place] = wide[place, :, top : top + height, left : left + width]
    return cut


def _mirrored(size: int, more: int) -> Tensor:
    """Places to read for a side that is ``more`` longer at both ends."""
    places = torch.arange(size)[None, None].float()
    return functional.pad(places, (more, more), mode="reflect")[0, 0].long() if more else torch.arange(size)


def _trivial(pixels: Tensor, seed: int, epochs: Sequence[int], indices: Sequence[int], fill: int) -> Tensor:
    from torchvision.transforms import v2

    operation = v2.TrivialAugmentWide(fill=fill)
    numbers = chance.draw(seed, epochs, indices, chance.TRIVIAL)
    changed = []
    with torch.random.fork_rng(devices=[]):  # the library draws from the global generator
        for picture, number in zip(pixels, numbers.tolist(), strict=True):
            torch.manual_seed(number >> 1)  # a seed has 63 bits
            changed.append(operation(picture))
    return torch.stack(changed)
