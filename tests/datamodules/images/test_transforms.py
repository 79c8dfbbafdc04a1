"""Pixels are those of open_clip's and transformers' own transforms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import open_store
from datamodules.images.pictures import make_pixels
from datamodules.images.transforms import fit, fit_fast, normalise
from fulgurite.models.adapter import ImageSettings

Photo = Callable[..., Image.Image]
# wide, tall, square, smaller than the target, and odd differences that must be cut in two
SIZES = [(500, 375), (375, 500), (64, 64), (20, 13), (101, 67), (32, 97)]


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_those_of_open_clip(size: tuple[int, int], resize: Any, interpolation: Any) -> None:
    from open_clip.transform import image_transform

    images = ImageSettings(size=(64, 64), resize=resize, interpolation=interpolation, fill=127)
    theirs = image_transform(
        64, False, images.mean, images.std, resize_mode=resize, interpolation=interpolation, fill_color=127
    )
    picture = noise(*size)
    ours = normalise(fit(picture, images)[None], images)[0]
    assert torch.equal(ours, theirs(picture))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["shortest", "longest"])
def test_a_target_that_is_not_square_is_filled_as_open_clip_does(size: tuple[int, int], resize: Any) -> None:
    from open_clip.transform import image_transform

    images = ImageSettings(size=(48, 80), resize=resize, fill=9)
    theirs = image_transform((48, 80), False, images.mean, images.std, resize_mode=resize, fill_color=9)
    picture = noise(*size)
    assert torch.equal(normalise(fit(picture, images)[None], images)[0], theirs(picture))


@pytest.mark.parametrize("size", SIZES[:3])
def test_pixels_are_those_of_transformers(size: tuple[int, int], photo: Photo) -> None:
    from transformers import CLIPImageProcessor

    images = ImageSettings(size=(64, 64))
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    picture = photo(0, *size)
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    ours = normalise(fit(picture, images)[None], images)
    assert theirs.shape == ours.shape
    # one level of 255, over the smallest standard deviation: their resizing may be torchvision's
    assert (theirs - ours).abs().max() <= 1.01 / 255 / min(images.std)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_fast_way_is_at_most_one_level_away(
    size: tuple[int, int], resize: Any, interpolation: Any, photo: Photo
) -> None:
    images = ImageSettings(size=(48, 64), resize=resize, interpolation=interpolation)
    exact, fast = (make(photo(2, *size), images).int() for make in (fit, fit_fast))
    assert fast.shape == (3, 48, 64)
    assert (fast - exact).abs().max() <= 1


def test_the_fast_way_is_near_on_real_photos(shared_data: Path) -> None:
    store = open_store(shared_data / "images" / "coco_ccby" / "images.zip")
    images = ImageSettings()
    for name in store.names[:8]:
        exact, fast = (make_pixels(store.open(name), images, way).int() for way in (False, True))
        assert (fast - exact).abs().max() <= 1


def test_the_fast_way_serves_other_formats_too(photo: Photo, encoded: Callable[..., bytes]) -> None:
    images = ImageSettings(size=(16, 16), fill=50)
    layer = photo(1).convert("RGBA")
    layer.putalpha(0)
    assert make_pixels(encoded(layer, "PNG"), images, fast=True).unique().tolist() == [50]


def test_padding_has_the_colour() -> None:
    images = ImageSettings(size=(8, 8), resize="longest", fill=200)
    pixels = fit(Image.new("RGB", (8, 4), (1, 2, 3)), images)
    assert pixels[:, :2].unique().tolist() == [200]
    assert pixels[:, 6:].unique().tolist() == [200]
    assert pixels[0, 2:6].unique().tolist() == [1]


def test_normalising_is_done_by_channel() -> None:
    images = ImageSettings(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), images)
    assert pixels.dtype == torch.float32
    assert pixels.flatten().tolist() == [1.0, 1.0, 0.0]
