"""Bytes of a file to an upright RGB picture.

    bytes -> PIL -> turned as EXIF says -> grey, palette, CMYK, 16 bits to RGB -> transparency put on a colour

open_clip and transformers ignore EXIF and drop transparency; pictures without either come out the same.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_CHECK_SIZE = (1, 1)  # the smallest that draft mode gives: an eighth, with all of the file read


def open_picture(data: bytes, fill: int = 0) -> Image.Image:
    """Decode a picture, upright and in RGB.

    Args:
        data: Content of the file.
        fill: Grey behind transparent parts, 0 to 255.

    Raises:
        ValueError: If the bytes are no picture, or not all of one.
    """
    from PIL import Image, ImageOps

    try:
        picture: Image.Image = Image.open(io.BytesIO(data))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return _rgb(picture, fill)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise ValueError(_reason(error)) from error


def broken_because(data: bytes, whole: bool = True) -> str | None:
    """Why a picture cannot be used; ``None`` if it can.

    Args:
        data: Content of the file.
        whole: Read all of it; else only its header.
    """
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data))
        if whole:
            picture.draft("RGB", _CHECK_SIZE)
            picture.load()
    # libraries behind PIL raise as they like on bytes that are no picture
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own text names an object in memory
        return "no picture in a known format"
    return str(error) or type(error).__name__


def _rgb(picture: Image.Image, fill: int) -> Image.Image:
    from PIL import Image

    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith(("I", "F")):  # converted by PIL they would be cut off at 255
        values = np.asarray(picture).astype(np.float64)
        deepest = 65535 if picture.mode.startswith("I") else max(1.0, float(values.max()))
        return Image.fromarray((values * (255 / deepest)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (fill, fill, fill, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture.convert("RGB")
