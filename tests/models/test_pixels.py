"""Pictures become pixels as open_clip and transformers make them."""

import io
from typing import Any

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from fulgurite.models import ImageSettings, to_pixels, upright_rgb
from fulgurite.models.image_settings import (
    preprocess_of_settings,
    processor_settings,
    settings_of_preprocess,
    settings_of_processor,
)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy())


FORMS = [
    (resize, size, interpolation)
    for resize in ("shortest", "longest", "squash")
    for size in ((20, 20), (20, 28))
    for interpolation in ("bicubic", "bilinear")
    # here open_clip is always bicubic, whatever is asked for
    if (resize, size, interpolation) != ("shortest", (20, 28), "bilinear")
]


@pytest.mark.parametrize(("resize", "size", "interpolation"), FORMS)
def test_pixels_are_open_clips_own(resize: Any, size: tuple[int, int], interpolation: Any) -> None:
    images = ImageSettings(size, interpolation=interpolation, resize=resize, fill=7)
    theirs = image_transform_v2(PreprocessCfg(**preprocess_of_settings(images)), is_train=False)
    for shape in ((50, 31), (31, 50), (9, 12), (20, 28), (300, 11)):
        each = picture(*shape)
        found = to_pixels(each, images)
        assert found.shape == (3, *size)
        assert torch.equal(found, theirs(each)), shape


@pytest.mark.parametrize("kind", ["CLIP", "Blip", "Siglip"])
def test_pixels_are_those_of_transformers_but_for_rounding(kind: str) -> None:
    import transformers

    images = ImageSettings((24, 24), resize="shortest" if kind == "CLIP" else "squash")
    processor = getattr(transformers, f"{kind}ImageProcessor")(**processor_settings(images))
    each = picture(50, 31)
    found = processor(images=each, return_tensors="pt")["pixel_values"][0]
    # torchvision and Pillow round a channel's value of 0 to 255 up or down: one step, over the smallest std
    assert (to_pixels(each, images) - found).abs().max() < 1.5 / 255 / min(images.std)


def test_what_is_transparent_shows_the_background() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    images = ImageSettings((4, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fill=51)  # 51: a fifth of 255
    assert torch.allclose(to_pixels(clear, images), torch.tensor(0.2))
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = 0
    assert torch.allclose(to_pixels(palette, images), torch.tensor(0.2))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_become_three_channels(mode: str) -> None:
    assert to_pixels(Image.new(mode, (9, 7)), ImageSettings((4, 4))).shape == (3, 4, 4)


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_settings_come_back_from_both_forms(resize: Any) -> None:
    images = ImageSettings((24, 24), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", resize, 255)
    assert settings_of_preprocess(preprocess_of_settings(images)) == images
    from transformers import CLIPImageProcessor

    assert settings_of_processor(CLIPImageProcessor(**processor_settings(images))) == images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"longest_edge": 30}}, "shortest_edge, or height and width"),
        (
            {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}},
            "shortest_edge 30 and 24x24",
        ),
        ({"resample": 0}, r"resample must be 2 or 3 \(bilinear, bicubic\), got 0"),
        ({"image_mean": [0.5]}, "image_mean must have a value for each of 3 channels"),
    ],
)
def test_a_processor_that_does_something_else_is_refused(settings: dict[str, Any], message: str) -> None:
    from transformers import CLIPImageProcessor

    with pytest.raises(ValueError, match=message):
        settings_of_processor(CLIPImageProcessor(**{"size": {"shortest_edge": 224}, **settings}))


BROKEN_EXIF = [b"XX", b"II*\0\x08\0\0"]  # no header; one cut short


# how an upright picture is stored so that the number of EXIF brings it back
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
ORIENTATION = 0x0112


def opened(each: Image.Image, kind: str = "PNG", **settings: Any) -> Image.Image:
    file = io.BytesIO()
    each.save(file, kind, **settings)
    return Image.open(file)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])  # Pillow itself turns a TIFF when it is loaded
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_as_exif_says(orientation: int, kind: str) -> None:
    upright, turn = picture(9, 7), STORED[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = opened(upright if turn is None else upright.transpose(turn), kind, exif=exif)
    images = ImageSettings((4, 4))
    made = upright_rgb(file)
    assert made.tobytes() == upright.tobytes()
    assert upright_rgb(made).tobytes() == upright.tobytes(), "once, not twice"
    assert torch.equal(to_pixels(file, images), to_pixels(upright, images))


def test_grey_of_16_bits_is_scaled() -> None:
    grey = opened(Image.new("I;16", (8, 8), 128 * 257))  # 257: 65535 / 255
    images = ImageSettings((4, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert torch.allclose(to_pixels(grey, images), torch.tensor(128 / 255))


@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_exif_that_cannot_be_read_is_ignored(exif: bytes) -> None:
    each = picture(9, 7)
    assert upright_rgb(opened(each, exif=exif)).tobytes() == each.tobytes()
