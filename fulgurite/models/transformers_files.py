r"""Image-text networks of transformers on disk: read whole or not at all, written so that transformers reads them.

config.json -> which network -> weights, none missing
preprocessor_config.json | processor_config.json -> how pictures become pixels
tokenizer.json, ... -> the tokenizer
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.artifact.files import write_folder
from fulgurite.artifact.network_files import network_files, processor_files
from fulgurite.models.adapter import ImageSettings
from fulgurite.models.causal_lm import load_tokenizer
from fulgurite.models.image_settings import processor_settings, settings_of_processor
from fulgurite.models.pretrained import from_hub, listing, load_whole, local_folder, quiet

CLASSES = {
    "CLIPModel": "clip",
    "SiglipModel": "siglip",
    "BlipForConditionalGeneration": "blip_caption",
    "BlipForImageTextRetrieval": "blip_matching",
}
"""Networks that can be loaded, and what settings call them."""

_PROCESSORS = {"clip": "CLIP", "siglip": "Siglip", "blip_caption": "Blip", "blip_matching": "Blip"}
_ONLY_CLASS = {"clip": "CLIPModel", "siglip": "SiglipModel"}  # of configurations that name none


def load_network(source: str, dtype: torch.dtype) -> nn.Module:
    """A trained network of transformers, in eval mode; never one with random weights in it.

    Args:
        source: Folder, or id on the Hugging Face hub.
        dtype: Type of the weights in memory, whatever the file holds.

    Raises:
        FileNotFoundError: If there is no such folder, or no weights in it.
        ValueError: If it is no image-text network, or weights are missing or of another shape.
    """
    import transformers
    from transformers import AutoConfig

    folder = local_folder(source, "an image-text network")
    if folder is not None and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: expected open_clip_config.json or config.json with an image-text network, "
            f"found {listing(folder)}"
        )
    config: Any = from_hub(AutoConfig, source, "model", local=folder is not None)
    named = (config.architectures or [_ONLY_CLASS.get(config.model_type)])[0]
    if named not in CLASSES:
        raise ValueError(
            f"{source}: expected an image-text network ({', '.join(CLASSES)}), "
            f"found {named or 'no architectures'} of model_type {config.model_type!r}"
        )
    network, unused = load_whole(
        getattr(transformers, named),
        source,
        what="image-text network",
        dtype=dtype,
        local=folder is not None,
    )
    extra = [name for name in unused if "position_ids" not in name]
    if extra:
        warnings.warn(
            f"{source}: {len(extra)} entries of the weights are not used, such as {extra[0]}", stacklevel=4
        )
    made: nn.Module = network
    return made


def load_images(source: str, network: Any) -> ImageSettings:
    """How a network's pictures become pixels; as its configuration has it, with a warning, where no file says.

    Raises:
        ValueError: If a file says what cannot be done.
    """
    from transformers import AutoImageProcessor

    folder = local_folder(source, "an image-text network")
    names = ("preprocessor_config.json", "processor_config.json")
    if folder is not None and not any((folder / name).is_file() for name in names):
        images = default_images(network)
        warnings.warn(
            f"{folder}: expected {' or '.join(names)}, found neither: pictures are taken as transformers takes "
            f"them by default, at {images.size[0]}x{images.size[1]}",
            stacklevel=4,
        )
        return images
    auto: Any = AutoImageProcessor  # without annotations
    try:
        processor = auto.from_pretrained(
            str(source), local_files_only=folder is not None, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: no image processor: {str(error).splitlines()[0]}") from error
    try:
        images = settings_of_processor(processor)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    size = default_images(network).size
    if images.size != size:
        raise ValueError(
            f"{source}: the image processor makes {images.size[0]}x{images.size[1]} pixels, "
            f"the network reads {size[0]}x{size[1]}"
        )
    return images


def default_images(network: Any) -> ImageSettings:
    """What transformers does to pictures of a kind of network where nothing is said, at the network's own size."""
    size = network.config.vision_config.image_size
    shape = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    kind = CLASSES[class_name(network)]
    if kind == "siglip":
        return ImageSettings(shape, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash")
    return ImageSettings(shape, resize="shortest" if kind == "clip" else "squash")


def load_caption_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or hub id, which pads at the end.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If it has no token to pad with.
    """
    tokenizer: Any = load_tokenizer(source)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{source}: expected a tokenizer with a token to pad with, found none")
    tokenizer.padding_side = "right"
    return tokenizer


def make_processor(kind: str, images: ImageSettings, tokenizer: Any) -> Any:
    """The processor of a kind of network: what transformers reads pictures and texts with.

    Raises:
        ValueError: If transformers cannot read pictures so.
    """
    import transformers

    name = _PROCESSORS[kind]
    settings = processor_settings(images)
    image_processor = getattr(transformers, f"{name}ImageProcessor")(**settings)
    return getattr(transformers, f"{name}Processor")(image_processor, tokenizer)


def artifact_files(network: Any, processor: Any) -> dict[str, bytes]:
    """What an artefact needs beside the weights."""
    return network_files(network, processor)


def save_network(network: Any, processor: Any, folder: Path) -> None:
    """Save a network with its processor, whole or not at all."""

    def fill(fresh: Path) -> None:
        with quiet():
            network.save_pretrained(fresh)
        for name, data in processor_files(processor).items():
            (fresh / name).write_bytes(data)

    write_folder(Path(folder), fill)


def class_name(network: nn.Module) -> str:
    """Name of a network's class, of a packed one that it had before."""
    from fulgurite._hooks import network_class_name

    return network_class_name(network)
