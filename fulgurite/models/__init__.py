"""The one place that builds networks and names their weights."""

from fulgurite.models.causal_lm import (
    build_causal_lm,
    load_causal_lm,
    load_tokenizer,
    save_causal_lm,
    tied_names,
    unique_parameters,
)
from fulgurite.models.pooling import Pooling, embed_rows, token_batch
from fulgurite.models.text_encoder import (
    find_source,
    load_encoder_tokenizer,
    load_text_encoder,
    read_pooling,
)

__all__ = [
    "Pooling",
    "build_causal_lm",
    "embed_rows",
    "find_source",
    "load_causal_lm",
    "load_encoder_tokenizer",
    "load_text_encoder",
    "load_tokenizer",
    "read_pooling",
    "save_causal_lm",
    "tied_names",
    "token_batch",
    "unique_parameters",
]
