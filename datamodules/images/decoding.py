"""Bytes of a file to an upright RGB picture.

    bytes -> PIL -> ``upright_rgb`` of the core, which users of a network call as well

What ``broken_because`` lets pass, ``open_picture`` opens.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from fulgurite.models.pixels import upright_rgb

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
    from PIL import Image

    try:
        made: Image.Image = upright_rgb(Image.open(io.BytesIO(data)), fill)
    except MemoryError:
        raise
    # libraries behind PIL raise as they like on bytes that are no picture
    except Exception as error:
        raise ValueError(_reason(error)) from error
    return made


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
            upright_rgb(picture)  # what ``open_picture`` does
    except MemoryError:
        raise
    # as in ``open_picture``
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own text names an object in memory
        return "no picture in a known format"
    return str(error) or type(error).__name__
