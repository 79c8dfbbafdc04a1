r"""Image-text networks by where they are: load them whole or not at all, with the adapter that calls them.

    folder | local-dir: | open_clip:NAME | hf-hub:ID | hub id | artefact -> network, adapter

Which library a network is of follows from what its folder holds.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.artifact.files import MANIFEST_FILE
from fulgurite.artifact.loading import load
from fulgurite.artifact.open_clip_network import CONFIG_FILE, make_network
from fulgurite.models.adapter import ImageTextAdapter
from fulgurite.models.blip_adapter import BlipCaptionAdapter, BlipMatchingAdapter
from fulgurite.models.clip_adapter import ClipAdapter
from fulgurite.models.image_settings import settings_of_preprocess
from fulgurite.models.open_clip_adapter import OpenClipAdapter
from fulgurite.models.open_clip_files import (
    attach_images,
    find_weights,
    load_folder_tokenizer,
    load_weights,
    read_config,
)
from fulgurite.models.open_clip_names import NAME, load_named
from fulgurite.models.pretrained import local_folder
from fulgurite.models.transformers_files import (
    CLASSES,
    class_name,
    load_caption_tokenizer,
    load_images,
    load_network,
)

_HUB, _FOLDER = "hf-hub:", "local-dir:"  # open_clip's own prefixes
_HUB_FILES = [CONFIG_FILE, "open_clip_*", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json"]


def load_image_text(
    source: str, *, pretrained: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, ImageTextAdapter]:
    """Load a trained image-text network, CLIP or BLIP; never one with random weights in it.

    Args:
        source: A folder of open_clip (also ``local-dir:FOLDER``), of transformers, or an artefact;
            ``open_clip:NAME`` with ``pretrained``; ``hf-hub:ID`` of an open_clip network on the Hugging Face hub, or
            the id of one of transformers. What is local needs no network connection.
        pretrained: Of ``open_clip:NAME``, which weights: one of open_clip's tags, or a checkpoint file.
        dtype: Type of the weights in memory, whatever the file holds.

    Returns:
        The network on the CPU in eval mode, and what calls it.

    Raises:
        FileNotFoundError: If there is no such folder, or no configuration, weights or tokenizer in it.
        ValueError: If it is no image-text network, or the weights do not fit it: with their names.
        ArtifactError: If an artefact is not whole.
    """
    if pretrained is not None and not source.startswith(NAME):
        raise ValueError(
            f"pretrained goes with {NAME}NAME, got source {source!r} and pretrained {pretrained!r}"
        )
    if source.startswith(NAME):
        network, adapter = load_named(source.removeprefix(NAME), pretrained)
        return network.to(dtype).eval(), adapter
    if source.startswith(_HUB):
        return _load_open_clip(_fetch(source.removeprefix(_HUB)), dtype)
    place = source.removeprefix(_FOLDER)
    folder = local_folder(Path(place) if place != source else place, "an image-text network")
    if folder is not None and (folder / MANIFEST_FILE).is_file():
        network = load(folder, dtype=dtype)
        return network, folder_adapter(str(folder), network)
    if folder is not None and (place != source or (folder / CONFIG_FILE).is_file()):
        return _load_open_clip(folder, dtype)
    network = load_network(place, dtype)
    return network, folder_adapter(place, network)


def folder_adapter(source: str, network: nn.Module) -> ImageTextAdapter:
    """What calls a network, from the folder or hub id that it is from.

    Args:
        source: The folder, an artefact's too, or the hub id.
        network: The network of it.

    Raises:
        FileNotFoundError: If it has no tokenizer.
        ValueError: If it is no image-text network.
    """
    name = class_name(network)
    if name.startswith("open_clip."):
        model_cfg, preprocess = read_config(Path(source))
        return _open_clip_adapter(Path(source), network, model_cfg, preprocess)
    if name not in CLASSES:
        raise ValueError(f"{source}: expected an image-text network ({', '.join(CLASSES)}), found {name}")
    kind = CLASSES[name]
    return make_adapter(kind, network, load_images(source, network), load_caption_tokenizer(source))


def make_adapter(kind: str, network: Any, images: Any, tokenizer: Any) -> ImageTextAdapter:
    """The adapter of a kind of network of transformers."""
    text = network.config.text_config
    length = min(int(tokenizer.model_max_length), int(text.max_position_embeddings))
    if kind == "blip_caption":
        return BlipCaptionAdapter(images, tokenizer, length, int(text.bos_token_id))
    if kind == "blip_matching":
        return BlipMatchingAdapter(images, tokenizer, length)
    return ClipAdapter(images, tokenizer, length, kind=kind)


def _load_open_clip(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, OpenClipAdapter]:
    model_cfg, preprocess = read_config(folder)
    weights = find_weights(folder)
    try:
        network = make_network(model_cfg)
    except ValueError as error:
        raise ValueError(f"{folder}/{CONFIG_FILE}: {error}") from error
    load_weights(network, weights)
    if not preprocess:
        warnings.warn(
            f"{folder}/{CONFIG_FILE}: no preprocess_cfg: pictures are taken as open_clip takes them by default",
            stacklevel=3,
        )
    return network.to(dtype).eval(), _open_clip_adapter(folder, network, model_cfg, preprocess)


def _open_clip_adapter(
    folder: Path, network: Any, model_cfg: dict[str, Any], preprocess: dict[str, Any]
) -> OpenClipAdapter:
    try:
        # the network's own size counts, as in open_clip
        images = settings_of_preprocess(preprocess, network.visual.image_size)
    except ValueError as error:
        raise ValueError(f"{folder}/{CONFIG_FILE}: {error}") from error
    attach_images(network, images)
    return OpenClipAdapter(images, model_cfg, load_folder_tokenizer(folder, model_cfg))


def _fetch(identifier: str) -> Path:
    """The folder of an open_clip network on the Hugging Face hub, after fetching it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(identifier, allow_patterns=_HUB_FILES))
    except Exception as error:  # requests' errors and the hub's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{_HUB}{identifier}: cannot be fetched from the Hugging Face hub: {reason}"
        ) from error
