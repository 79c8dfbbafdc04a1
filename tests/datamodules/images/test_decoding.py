"""Every kind of picture becomes upright RGB; what is no picture says why."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images.decoding import broken_because, open_picture
from datamodules.images.pictures import make_pixels
from datamodules.images.transforms import normalise
from fulgurite.models import ImageSettings, to_pixels

Photo = Callable[..., Image.Image]
Encoded = Callable[..., bytes]


def colours(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("colour", "mode", "settings", "expected"),
    [
        ((200, 100, 50, 255), "RGBA", {}, (200, 100, 50)),
        ((200, 100, 50, 0), "RGBA", {}, (77, 77, 77)),
        ((200, 100, 50, 102), "RGBA", {}, (126, 86, 66)),  # 0.4 of the colour and 0.6 of 77
        ((90, 0), "LA", {}, (77, 77, 77)),
        (90, "L", {}, (90, 90, 90)),
        (90, "L", {"transparency": 90}, (77, 77, 77)),
        ((1, 2, 3), "RGB", {"transparency": (1, 2, 3)}, (77, 77, 77)),
        (1, "1", {}, (255, 255, 255)),
        (65535, "I;16", {}, (255, 255, 255)),
        (32896, "I;16", {}, (128, 128, 128)),  # 128 * 257: 16 bits are not cut off at 255
    ],
    ids=[
        "opaque",
        "clear",
        "half",
        "grey clear",
        "grey",
        "grey key",
        "key",
        "1 bit",
        "16 bit",
        "16 bit half",
    ],
)
def test_a_png_of_any_mode_is_put_on_the_colour(
    colour: object, mode: str, settings: dict[str, object], expected: tuple[int, ...], encoded: Encoded
) -> None:
    picture = Image.new(mode, (3, 2), colour)  # type: ignore[arg-type]
    decoded = colours(open_picture(encoded(picture, "PNG", **settings), fill=77))
    assert np.abs(decoded - expected).max() <= 1


def test_a_palette_with_a_clear_entry_is_put_on_the_colour(encoded: Encoded) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    data = encoded(picture, "PNG", transparency=bytes([255, 0]))
    assert colours(open_picture(data, fill=200)).tolist() == [[[10, 20, 30], [200, 200, 200]]]


def test_a_cmyk_jpeg_has_its_colours(photo: Photo, encoded: Encoded) -> None:
    data = encoded(photo(1).convert("CMYK"), quality=95)
    assert np.abs(colours(open_picture(data)) - colours(photo(1))).mean() < 6  # JPEG's own loss


# what is done to an upright picture so that the tag brings it back
TURNED = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_the_orientation_of_exif_is_honoured(orientation: int, photo: Photo, encoded: Encoded) -> None:
    upright, turn = photo(2), TURNED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, quality=95, exif=exif)
    decoded = open_picture(data)
    assert decoded.size == (40, 30)
    assert np.abs(colours(decoded) - colours(upright)).mean() < 4  # JPEG's own loss


@pytest.mark.parametrize(
    ("kind", "part", "reason"),
    [
        ("JPEG", lambda data: data[: len(data) // 2], "truncated"),
        ("JPEG", lambda data: data[:-2], "truncated"),
        ("PNG", lambda data: data[: len(data) // 2], "truncated"),
        ("JPEG", lambda data: b"<html>not found</html>", "no picture in a known format"),
        ("JPEG", lambda data: b"", "no picture in a known format"),
    ],
    ids=["half a JPEG", "a JPEG without its end", "half a PNG", "a page", "nothing"],
)
def test_what_is_no_whole_picture_says_why(
    kind: str, part: Callable[[bytes], bytes], reason: str, photo: Photo, encoded: Encoded
) -> None:
    data = part(encoded(photo(4, 100, 80), kind))
    with pytest.raises(ValueError, match=reason):
        open_picture(data)
    assert reason in (broken_because(data) or "")


def test_a_header_alone_is_enough_where_no_more_is_asked(photo: Photo, encoded: Encoded) -> None:
    data = encoded(photo(5, 100, 80))
    assert broken_because(data) is None
    assert broken_because(data[: len(data) // 2], whole=False) is None


@pytest.mark.parametrize("exif", [b"XX", b"MM\0*"], ids=["no header", "cut short"])  # PIL fails in two ways
def test_exif_that_cannot_be_read_is_ignored(exif: bytes, photo: Photo, encoded: Encoded) -> None:
    data = encoded(photo(6), "PNG", exif=exif)
    assert broken_because(data) is None
    assert np.array_equal(colours(open_picture(data)), colours(photo(6)))


def test_users_of_a_network_see_the_pixels_of_the_evaluation(photo: Photo, encoded: Encoded) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    images = ImageSettings((16, 16), fill=90)
    clear = photo(7).convert("RGBA")
    clear.putalpha(100)
    files = [
        encoded(photo(7), exif=exif),
        encoded(clear, "PNG", exif=exif),
        encoded(Image.new("I;16", (20, 30), 40_000), "PNG"),
        encoded(photo(7).convert("CMYK")),
    ]
    for data in files:
        evaluated = normalise(make_pixels(data, images)[None], images)[0]
        assert torch.equal(to_pixels(Image.open(io.BytesIO(data)), images), evaluated)
