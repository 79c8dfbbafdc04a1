"""The one place that builds networks and names their weights."""

from fulgurite.models.adapter import ImageSettings, ImageTextAdapter
from fulgurite.models.alike import load_like
from fulgurite.models.attention import Attention, attentions_of
from fulgurite.models.caption_tokenizer import train_caption_tokenizer
from fulgurite.models.causal_lm import (
    build_causal_lm,
    load_causal_lm,
    load_tokenizer,
    save_causal_lm,
    tied_names,
    unique_parameters,
)
from fulgurite.models.image_settings import preprocess_of_settings
from fulgurite.models.image_text import folder_adapter, load_image_text
from fulgurite.models.image_text_building import build_image_text
from fulgurite.models.pixels import to_pixels, upright_rgb
from fulgurite.models.pooling import Pooling, embed_rows, token_batch
from fulgurite.models.text_encoder import (
    find_source,
    load_encoder_tokenizer,
    load_text_encoder,
    read_pooling,
)
from fulgurite.models.transformers_files import CLASSES as IMAGE_TEXT_CLASSES

__all__ = [
    "IMAGE_TEXT_CLASSES",
    "Attention",
    "ImageSettings",
    "ImageTextAdapter",
    "Pooling",
    "attentions_of",
    "build_causal_lm",
    "build_image_text",
    "embed_rows",
    "find_source",
    "folder_adapter",
    "load_causal_lm",
    "load_encoder_tokenizer",
    "load_image_text",
    "load_like",
    "load_text_encoder",
    "load_tokenizer",
    "preprocess_of_settings",
    "read_pooling",
    "save_causal_lm",
    "tied_names",
    "to_pixels",
    "token_batch",
    "train_caption_tokenizer",
    "unique_parameters",
    "upright_rgb",
]
