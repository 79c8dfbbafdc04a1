r"""Image-text networks with random weights, from settings; sizes of vocabularies follow from the tokenizer.

{library: open_clip, embed_dim, vision_cfg, text_cfg} + tokenizer    -> CLIP | CustomTextCLIP
{library: transformers, model_type: clip | siglip | blip_caption | blip_matching, ...} + tokenizer -> network

What a setting leaves out is as the library has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.artifact.open_clip_network import check_model_cfg, make_network
from fulgurite.models.adapter import ImageTextAdapter
from fulgurite.models.image_settings import preprocess_of_settings, settings_of_preprocess
from fulgurite.models.image_text import make_adapter
from fulgurite.models.open_clip_adapter import OpenClipAdapter
from fulgurite.models.open_clip_files import attach_images, load_folder_tokenizer, wrap_tokenizer
from fulgurite.models.transformers_files import CLASSES, default_images, load_caption_tokenizer

_KINDS = {kind: name for name, kind in CLASSES.items()}
_LIBRARIES = ("open_clip", "transformers")


def build_image_text(
    config: Mapping[str, Any], tokenizer: Any | None = None
) -> tuple[nn.Module, ImageTextAdapter]:
    """Make a network with random weights from settings; the global seed decides the weights.

    Args:
        config: ``library`` and the settings of its configuration. Of open_clip: ``embed_dim``, ``vision_cfg``,
            ``text_cfg``. Of transformers: ``model_type`` (``clip``, ``siglip``, ``blip_caption``,
            ``blip_matching``), ``vision_config``, ``text_config``. Of both: ``preprocess_cfg`` in open_clip's form.
        tokenizer: A tokenizer of transformers, or its folder; networks of open_clip take its own where there is none.

    Returns:
        The network in float32, in training mode, and what calls it.

    Raises:
        FileNotFoundError: If the tokenizer's folder holds none.
        ValueError: If a setting is missing, unknown, or against the tokenizer.

    Example:
        >>> towers = {
        ...     "vision_config": {"hidden_size": 16, "image_size": 32},
        ...     "text_config": {"hidden_size": 16},
        ... }
        >>> build_image_text({"library": "transformers", "model_type": "clip", **towers})
        Traceback (most recent call last):
            ...
        ValueError: config.library transformers needs a tokenizer: train one, or name its folder
    """
    settings = dict(config)
    library = settings.pop("library", None)
    if library not in _LIBRARIES:
        raise ValueError(f"config.library must be one of {', '.join(_LIBRARIES)}, got {library!r}")
    if isinstance(tokenizer, str | Path):
        tokenizer = load_caption_tokenizer(str(tokenizer))
    if tokenizer is not None and tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer needs a token to pad with, has none")
    preprocess = settings.pop("preprocess_cfg", None) or {}
    if library == "open_clip":
        return _build_open_clip(settings, preprocess, tokenizer)
    if tokenizer is None:
        raise ValueError("config.library transformers needs a tokenizer: train one, or name its folder")
    return _build_transformers(settings, preprocess, tokenizer)


def _build_open_clip(
    settings: dict[str, Any], preprocess: Mapping[str, Any], tokenizer: Any | None
) -> tuple[nn.Module, OpenClipAdapter]:
    model_cfg = check_model_cfg(settings)
    text = model_cfg["text_cfg"]
    if tokenizer is None:
        wrapped = load_folder_tokenizer(Path(), {"text_cfg": {**text, "hf_tokenizer_name": None}})
        _fit_vocabulary(text, wrapped.vocab_size)
        if wrapped.eot_token_id != text["vocab_size"] - 1 and text.get("pool_type", "argmax") == "argmax":
            raise ValueError("text_cfg.vocab_size must be that of open_clip's tokenizer where none is given")
    else:
        _fit_vocabulary(text, len(tokenizer))
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise ValueError(
                "the tokenizer needs a token at the end of a text (eos_token or sep_token), has none"
            )
        highest = end == len(tokenizer) - 1
        # a text's vector is that of its highest token, or of its first end token
        if not highest and text.setdefault("pool_type", "eos") == "argmax":
            raise ValueError(
                f"text_cfg.pool_type argmax finds a text's end by the highest token, the tokenizer's is {end} "
                f"of {len(tokenizer)}: leave pool_type out, or set eos"
            )
        text |= {"eos_id": end, "pad_id": tokenizer.pad_token_id, "hf_tokenizer_name": "."}
        wrapped = wrap_tokenizer(tokenizer, model_cfg)
    network: Any = make_network(model_cfg)
    images = settings_of_preprocess(preprocess, network.visual.image_size)
    attach_images(network, images)
    return network, OpenClipAdapter(images, model_cfg, wrapped)


def _build_transformers(
    settings: dict[str, Any], preprocess: Mapping[str, Any], tokenizer: Any
) -> tuple[nn.Module, ImageTextAdapter]:
    import transformers
    from transformers import AutoConfig

    kind = settings.pop("model_type", None)
    if kind not in _KINDS:
        raise ValueError(f"config.model_type must be one of {', '.join(_KINDS)}, got {kind!r}")
    text = dict(settings.get("text_config") or {})
    _fit_vocabulary(text, len(tokenizer))
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    text |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": start, "eos_token_id": end}
    if kind.startswith("blip"):
        text["sep_token_id"] = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else end
        # transformers' default is 1e-10, for weights that are loaded over: from there nothing can be learned
        settings["vision_config"] = {"initializer_range": 0.02, **(settings.get("vision_config") or {})}
    if start is None or end is None:
        raise ValueError("the tokenizer needs tokens at a text's start and end, has none")
    try:
        model_type = "blip" if kind.startswith("blip") else kind
        built = AutoConfig.for_model(model_type, **{**settings, "text_config": text})
        cls: Any = getattr(transformers, _KINDS[kind])
        network = cls._from_config(built, dtype=torch.float32)
    except Exception as error:  # its validators have errors of their own
        raise ValueError(f"transformers cannot build {kind}: {' '.join(str(error).split())}") from error
    network.config.architectures = [_KINDS[kind]]
    default = default_images(network)
    images = settings_of_preprocess({**preprocess_of_settings(default), **preprocess}, default.size)
    network.train()
    return network, make_adapter(kind, network, images, tokenizer)


def _fit_vocabulary(text: dict[str, Any], size: int) -> None:
    """Set the size of the vocabulary, or hold the one that is asked for against the tokenizer's."""
    asked = text.setdefault("vocab_size", size)
    if asked < size:
        raise ValueError(f"vocab_size must be at least the tokenizer's {size}, got {asked}")
