"""How often each token of a tokenizer occurs in text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fulgurite.vocabulary._backend import bare_backend, id_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH_CHARACTERS = 1 << 20  # an encoding holds about 100 bytes a token
_BATCH_TEXTS = 1024


def token_counts(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Tensor:
    """Count tokens, a batch of texts at a time; nothing is cut off, no special token is added.

    Args:
        tokenizer: A fast one; the padding and truncation it is set to play no part.
        texts: Read once; a text is in memory whole.

    Returns:
        ``int64 [len(tokenizer)]``; longer where ids have gaps, up to the largest id.

    Raises:
        ValueError: If the tokenizer is not a fast one.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
        >>> token_counts(PreTrainedTokenizerFast(tokenizer_object=backend), ["abab", "ba"])
        tensor([1, 1, 2])
    """
    backend = bare_backend(tokenizer)
    counts = torch.zeros(id_count(tokenizer), dtype=torch.int64)
    for batch in _batches(texts):
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            counts += torch.tensor(encoding.ids, dtype=torch.int64).bincount(minlength=len(counts))
    return counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_TEXTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
