r"""How pictures become pixels, as open_clip and transformers write it down.

preprocess_cfg (open_clip) <-> ImageSettings <-> image processor (transformers)

What one of the two cannot say is refused when it is written, not dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from fulgurite.models.adapter import ImageSettings, Resize

_BICUBIC, _BILINEAR = 3, 2  # Pillow's numbers, which image processors keep
_MODES = ("shortest", "longest", "squash")


def settings_of_preprocess(config: Mapping[str, Any], size: Any = None) -> ImageSettings:
    """Settings from open_clip's ``preprocess_cfg``; what it leaves out is as open_clip has it.

    Args:
        config: Its ``preprocess_cfg``, of a folder or of a pretrained tag.
        size: The size that the network reads; what ``config`` says of it counts where this is ``None``.

    Raises:
        ValueError: If a value is none that open_clip knows.
    """
    known = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
    if unknown := sorted(set(config) - known):
        raise ValueError(f"preprocess_cfg may hold {', '.join(sorted(known))}, got {', '.join(unknown)}")
    default = ImageSettings()
    mode = config.get("resize_mode") or "shortest"
    interpolation = config.get("interpolation") or "bicubic"
    if mode not in _MODES:
        raise ValueError(f"resize_mode must be one of {', '.join(_MODES)}, got {mode!r}")
    if interpolation == "random":  # open_clip's name for what training draws; it evaluates with this
        interpolation = "bicubic"
    if interpolation not in ("bicubic", "bilinear"):
        raise ValueError(f"interpolation must be bicubic or bilinear, got {interpolation!r}")
    return ImageSettings(
        size=_pair(config.get("size") or default.size if size is None else size),
        mean=_channels(config.get("mean") or default.mean, "mean"),
        std=_channels(config.get("std") or default.std, "std"),
        interpolation=cast(Literal["bicubic", "bilinear"], interpolation),
        resize=cast(Resize, mode),
        fill=int(config.get("fill_color") or 0),
    )


def preprocess_of_settings(images: ImageSettings) -> dict[str, Any]:
    """What open_clip's ``preprocess_cfg`` is for some settings."""
    return {
        "size": list(images.size),
        "mode": "RGB",
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "resize_mode": images.resize,
        "fill_color": images.fill,
    }


def settings_of_processor(processor: Any) -> ImageSettings:
    """Settings from an image processor of transformers.

    Raises:
        ValueError: If it does what cannot be said by them.
    """
    size, crop = _sides(processor.size), _sides(getattr(processor, "crop_size", None))
    if "shortest_edge" in size:
        mode: Resize = "shortest"
        edge = int(size["shortest_edge"])
        shape = (int(crop.get("height", edge)), int(crop.get("width", edge)))
        if shape != (edge, edge):
            raise ValueError(
                f"an image processor must cut squares of the size that it resizes to, "
                f"got shortest_edge {edge} and {shape[0]}x{shape[1]}"
            )
    elif {"height", "width"} <= set(size):
        mode, shape = "squash", (int(size["height"]), int(size["width"]))
    else:
        raise ValueError(
            f"an image processor's size must have shortest_edge, or height and width, got {size}"
        )
    resample = int(processor.resample)
    if resample not in (_BICUBIC, _BILINEAR):
        raise ValueError(f"an image processor's resample must be 2 or 3 (bilinear, bicubic), got {resample}")
    return ImageSettings(
        size=shape,
        mean=_channels(processor.image_mean, "image_mean"),
        std=_channels(processor.image_std, "image_std"),
        interpolation="bicubic" if resample == _BICUBIC else "bilinear",
        resize=mode,
        fill=int(getattr(processor, "fill_color", None) or 0),
    )


def processor_settings(images: ImageSettings) -> dict[str, Any]:
    """Keyword arguments of an image processor of transformers for some settings.

    Raises:
        ValueError: If transformers' image processors cannot do it.
    """
    if images.resize == "longest" or (images.resize == "shortest" and images.size[0] != images.size[1]):
        raise ValueError(
            "networks of transformers take pictures that are cut to a square or squashed, "
            f"got resize {images.resize!r} to {images.size[0]}x{images.size[1]}"
        )
    sides = {"height": images.size[0], "width": images.size[1]}
    cut = images.resize == "shortest"
    settings: dict[str, Any] = {
        "size": {"shortest_edge": images.size[0]} if cut else sides,
        "do_center_crop": cut,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "resample": _BICUBIC if images.interpolation == "bicubic" else _BILINEAR,
        "fill_color": images.fill,  # ours: transformers keeps it and looks the other way
    }
    return {**settings, "crop_size": sides} if cut else settings


def _sides(size: Any) -> dict[str, int]:
    """A size as a dictionary without what is not set."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"shortest_edge": size}
    return {key: value for key, value in dict(size).items() if value is not None}


def _pair(size: Any) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) == 1:
        pair *= 2
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size must be a height and a width, got {size!r}")
    return cast("tuple[int, int]", pair)


def _channels(values: Any, name: str) -> tuple[float, float, float]:
    found = tuple(float(value) for value in ([values] * 3 if isinstance(values, int | float) else values))
    if len(found) != 3:
        raise ValueError(f"{name} must have a value for each of 3 channels, got {values!r}")
    return found
