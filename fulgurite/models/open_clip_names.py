r"""Networks that open_clip knows by name, with weights by one of its tags or from a checkpoint file.

open_clip:ViT-B-32 + tag  -> fetched by open_clip -> network
                   + file -> network, pictures taken by open_clip's defaults

What a name stands for is read from open_clip, never added to it.
"""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from fulgurite.artifact.open_clip_network import check_model_cfg, make_network, quiet
from fulgurite.models.image_settings import settings_of_preprocess
from fulgurite.models.open_clip_adapter import OpenClipAdapter
from fulgurite.models.open_clip_files import attach_images, load_folder_tokenizer, load_weights

NAME = "open_clip:"
"""What a source begins with that is a name of open_clip's."""

_OF_PICTURES = ("mean", "std", "interpolation", "resize_mode")


def load_named(name: str, pretrained: str | None) -> tuple[nn.Module, OpenClipAdapter]:
    """A network of open_clip by its name.

    Args:
        name: Such as ``ViT-B-32``.
        pretrained: A tag, such as ``laion2b_s34b_b79k``, or a checkpoint file.

    Raises:
        FileNotFoundError: If ``pretrained`` looks like a file and is none.
        ValueError: If the name or tag is unknown, the weights cannot be fetched, or do not fit.
    """
    from open_clip.pretrained import list_pretrained_tags_by_model

    model_cfg = named_config(name)
    tags = list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise ValueError(
            f"{NAME}{name}: needs pretrained, a checkpoint file or one of {', '.join(tags) or 'no tags'}"
        )
    preprocess: dict[str, Any] = {}
    path = Path(pretrained).expanduser()
    if pretrained in tags:
        path, tag = _fetch(name, pretrained)
        preprocess = {key: tag[key] for key in _OF_PICTURES if tag.get(key) is not None}
        # the activation that the weights were trained with, whatever the name's configuration has
        model_cfg["quick_gelu"] = bool(tag.get("quick_gelu", False))
    elif path.is_file():
        warnings.warn(
            f"{pretrained}: a checkpoint does not say how pictures become pixels: open_clip's defaults are taken",
            stacklevel=3,
        )
    elif path.suffix or "/" in pretrained:
        raise FileNotFoundError(f"{pretrained}: expected a checkpoint of {name}, found nothing")
    else:
        raise ValueError(
            f"{NAME}{name}: pretrained must be a file or one of {', '.join(tags)}, got {pretrained!r}"
        )
    network: Any = make_network(model_cfg)
    load_weights(network, path)
    images = settings_of_preprocess(preprocess, network.visual.image_size)
    attach_images(network, images)
    return network, OpenClipAdapter(images, model_cfg, _tokenizer(name, model_cfg))


def named_config(name: str) -> dict[str, Any]:
    """The configuration that open_clip has for a name.

    Raises:
        ValueError: If it has none.
    """
    from open_clip import get_model_config, list_models

    found = get_model_config(name)
    if found is None:
        near = difflib.get_close_matches(name, list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"{NAME}{name}: open_clip knows no such network; near: {', '.join(near) or 'nothing'}"
        )
    try:
        return check_model_cfg(found)
    except ValueError as error:
        raise ValueError(f"{NAME}{name}: {error}") from error


def _fetch(name: str, tag: str) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a tag, and what open_clip says of it."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    settings: dict[str, Any] = get_pretrained_cfg(name, tag)
    try:
        with quiet():
            return Path(download_pretrained(settings)), settings
    except Exception as error:  # requests' errors, the hub's own, urllib's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{NAME}{name}: the weights {tag!r} cannot be fetched ({reason}); "
            "give pretrained a checkpoint file where there is no connection"
        ) from error


def _tokenizer(name: str, model_cfg: dict[str, Any]) -> Any:
    """The tokenizer of a name, which open_clip fetches where it is one of transformers."""
    from open_clip import get_tokenizer

    if not model_cfg["text_cfg"].get("hf_tokenizer_name") and "siglip" not in name.lower():
        return load_folder_tokenizer(Path(), model_cfg)
    try:
        with quiet():
            return get_tokenizer(name)
    except Exception as error:  # whatever fetching it ends in
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{NAME}{name}: the tokenizer cannot be fetched ({reason})") from error
