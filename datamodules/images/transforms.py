"""Pictures to what a network reads, in the arithmetic of open_clip's own transforms.

    RGB picture -> resize, cut or pad -> uint8 [3, h, w] -> (augmentation, cache) -> normalise -> float32

Resizing by PIL smooths what it shrinks, so the pixels are those of ``open_clip.image_transform`` bit for bit.
``fit_fast`` is for training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fulgurite.models.adapter import ImageSettings

if TYPE_CHECKING:
    from PIL import Image


def fit(picture: Image.Image, images: ImageSettings) -> Tensor:
    """Resize an RGB picture as the network wants it, uint8 ``[3, h, w]``."""
    from PIL import Image

    method = Image.Resampling[images.interpolation.upper()]
    width, height = resized(picture.size, images)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), method)
    return _middle(torch.from_numpy(np.array(picture)).permute(2, 0, 1), images)


def fit_fast(picture: Image.Image, images: ImageSettings) -> Tensor:
    """As ``fit``, but resized by torchvision as a tensor: of photos of 500 x 375, 1.7 times as many a second.

    On 111 photos of MS-COCO no value is more than one level of 255 away, and the mean difference is 0.004 levels. Noise
    that bicubic weights drive beyond 0 or 255 can be 10 levels away.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    width, height = resized(picture.size, images)
    if (width, height) != picture.size:
        method = InterpolationMode(images.interpolation)
        pixels = transforms.resize(pixels, [height, width], interpolation=method, antialias=True)
    return _middle(pixels, images)


def resized(size: tuple[int, int], images: ImageSettings) -> tuple[int, int]:
    """Width and height after resizing, before cutting or padding, of a picture of ``size`` (width, height)."""
    width, height = size
    target_height, target_width = images.size
    if images.resize == "squash":
        return target_width, target_height
    if images.resize == "shortest" and target_height == target_width:
        # the longer side is rounded down, as torchvision does
        short, long = sorted(size)
        scaled = int(target_width * long / short)
        return (target_width, scaled) if width <= height else (scaled, target_width)
    ratios = (height / target_height, width / target_width)
    ratio = max(ratios) if images.resize == "longest" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _middle(pixels: Tensor, images: ImageSettings) -> Tensor:
    """Cut the middle out, or pad around, ``[3, h, w]``."""
    height, width = images.size
    rows, columns = pixels.shape[1:]
    if rows < height or columns < width:
        canvas = pixels.new_full((3, max(rows, height), max(columns, width)), images.fill)
        top, left = max(0, height - rows) // 2, max(0, width - columns) // 2
        canvas[:, top : top + rows, left : left + columns] = pixels
        pixels = canvas
    top = round((pixels.shape[1] - height) / 2)  # half to even, as torchvision rounds
    left = round((pixels.shape[2] - width) / 2)
    return pixels[:, top : top + height, left : left + width].contiguous()


def normalise(pixels: Tensor, images: ImageSettings) -> Tensor:
    """uint8 ``[n, 3, h, w]`` to float32 as the network reads it."""
    mean = torch.tensor(images.mean)[:, None, None]
    std = torch.tensor(images.std)[:, None, None]
    return pixels.float().div_(255).sub_(mean).div_(std)
