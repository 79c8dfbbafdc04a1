"""Keep the tokens of a network that matter for given text."""

from fulgurite.vocabulary.counts import token_counts
from fulgurite.vocabulary.loss import token_scores_by_loss
from fulgurite.vocabulary.network import shrink_embeddings
from fulgurite.vocabulary.selection import essential_tokens, select_tokens
from fulgurite.vocabulary.tokenizers import shrink_tokenizer

__all__ = [
    "essential_tokens",
    "select_tokens",
    "shrink_embeddings",
    "shrink_tokenizer",
    "token_counts",
    "token_scores_by_loss",
]
