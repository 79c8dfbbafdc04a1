"""The one place that builds networks and names their weights."""

from fulgurite.models.causal_lm import (
    build_causal_lm,
    load_causal_lm,
    load_tokenizer,
    save_causal_lm,
    tied_names,
    unique_parameters,
)

__all__ = [
    "build_causal_lm",
    "load_causal_lm",
    "load_tokenizer",
    "save_causal_lm",
    "tied_names",
    "unique_parameters",
]
