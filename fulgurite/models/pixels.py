r"""Pictures to pixels, as the network's own library makes them from one picture at a time.

PIL picture -> turned as EXIF says -> RGB on a background -> resized by Pillow -> cut or padded -> [0, 1]
            -> (x - mean) / std

Pillow resizes, as in open_clip and the processors that published networks were trained with. These ignore EXIF, cut
16 bits off at 255 and drop transparency; pictures without any of it come out the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fulgurite.models.adapter import ImageSettings


def to_pixels(picture: Any, images: ImageSettings) -> Tensor:
    """One picture as the network reads it, float32 ``[3, h, w]``.

    Args:
        picture: A ``PIL.Image`` in any mode; see ``upright_rgb``. What is transparent shows ``images.fill``.
        images: How pictures become pixels.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    def resize(shape: Any) -> Any:
        return transforms.resize(opaque, shape, InterpolationMode(images.interpolation))

    opaque = upright_rgb(picture, images.fill)
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


def upright_rgb(picture: Any, fill: int = 0) -> Any:
    """A picture as evaluation and users of a network see it: upright, RGB and opaque.

    Args:
        picture: A ``PIL.Image`` in any mode; left as it is. EXIF that cannot be read is ignored.
        fill: Grey behind transparent parts, 0 to 255.

    Returns:
        A ``PIL.Image`` in RGB; ``picture`` itself where there is nothing to do.

    Raises:
        OSError: If it has not been read yet and cannot be.
    """
    from PIL import Image

    upright = _turned(picture)
    if upright.mode == "RGB" and not upright.has_transparency_data:
        return upright
    if upright.mode.startswith(("I", "F")):  # converted by PIL they would be cut off at 255
        values = np.asarray(upright).astype(np.float64)
        deepest = 65535 if upright.mode.startswith("I") else max(1.0, float(values.max()))
        return Image.fromarray((values * (255 / deepest)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (fill, fill, fill, 255)), layer).convert("RGB")


def _turned(picture: Any) -> Any:
    """The picture as its EXIF or XMP says that it is to be seen."""
    from PIL import ExifTags, Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    picture.load()  # turns a TIFF already, whose EXIF then no longer says to
    try:
        turn = turns.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    # what is no EXIF fails in PIL in many ways (struct.error, SyntaxError, TypeError, ...); the picture is whole
    except Exception:
        turn = None
    if turn is None:
        return picture
    upright = picture.transpose(turn)
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        upright.info.pop(key, None)  # else it would be turned again
    return upright


def _cut_or_pad(picture: Any, height: int, width: int, fill: int) -> Any:
    """The middle of a picture, on a background where it is smaller."""
    from torchvision.transforms import functional as transforms

    rows, columns = max(height - picture.height, 0), max(width - picture.width, 0)
    padding = [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]
    padded = transforms.pad(picture, padding, fill=fill) if rows or columns else picture
    return transforms.center_crop(padded, [height, width])
