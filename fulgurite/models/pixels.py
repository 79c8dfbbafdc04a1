r"""Pictures to pixels, as the network's own library makes them from one picture at a time.

PIL picture -> RGB on its background -> resized by Pillow -> cut or padded -> [0, 1] -> (x - mean) / std

Pillow resizes, as in open_clip and the processors that published networks were trained with.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fulgurite.models.adapter import ImageSettings


def to_pixels(picture: Any, images: ImageSettings) -> Tensor:
    """One picture as the network reads it, float32 ``[3, h, w]``.

    Args:
        picture: A ``PIL.Image`` in any mode; what is transparent shows ``images.fill``.
        images: How pictures become pixels.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    def resize(shape: Any) -> Any:
        return transforms.resize(opaque, shape, InterpolationMode(images.interpolation))

    opaque = _opaque(picture, images.fill)
    height, width = images.size
    if images.resize == "squash":
        resized = resize([height, width])
    elif images.resize == "shortest" and height == width:
        # torchvision cuts the longer side down where others round it: of pictures that are seen, the same middle
        resized = transforms.center_crop(resize([height]), [height, width])
    else:
        ratios = (opaque.height / height, opaque.width / width)
        ratio = max(ratios) if images.resize == "longest" else min(ratios)
        resized = resize([round(opaque.height / ratio), round(opaque.width / ratio)])
        resized = _cut_or_pad(resized, height, width, images.fill)
    pixels: Tensor = transforms.to_tensor(resized)
    normalised: Tensor = transforms.normalize(pixels, list(images.mean), list(images.std))
    return normalised


def _opaque(picture: Any, fill: int) -> Any:
    """The picture in RGB; what is transparent in it shows the background."""
    from PIL import Image

    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (fill, fill, fill, 255)), layer).convert("RGB")


def _cut_or_pad(picture: Any, height: int, width: int, fill: int) -> Any:
    """The middle of a picture, on a background where it is smaller."""
    from torchvision.transforms import functional as transforms

    rows, columns = max(height - picture.height, 0), max(width - picture.width, 0)
    padding = [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]
    padded = transforms.pad(picture, padding, fill=fill) if rows or columns else picture
    return transforms.center_crop(padded, [height, width])
