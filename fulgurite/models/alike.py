"""Another network of the kind that one is: its base, for the one that was fine-tuned from it."""

from __future__ import annotations

from typing import Any

from fulgurite._hooks import network_class_name
from fulgurite.models.causal_lm import load_causal_lm
from fulgurite.models.image_text import load_image_text
from fulgurite.models.text_encoder import load_text_encoder
from fulgurite.models.transformers_files import CLASSES


def load_like(network: Any, source: str) -> Any:
    """Load a network as the module of another one would.

    Args:
        network: A causal language model, a text encoder, a CLIP or a BLIP.
        source: Folder, hub id, or what else that module takes.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: If there is no such folder, or no weights in it.
        ValueError: If it holds a network of another kind, or not all of it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = network_class_name(network)
    if name in CLASSES or name.startswith("open_clip."):
        return load_image_text(source)[0]
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return load_causal_lm(source)
    return load_text_encoder(source)
