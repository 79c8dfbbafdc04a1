"""Texts that a stage is given beside the run's own data: a file, one text a line, as batches of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_BATCH = 16
_LONGEST = 512  # tokens, where the tokenizer does not say less


def read_texts(path: str, key: str) -> list[str]:
    """The lines of a file that are not blank.

    Args:
        path: UTF-8.
        key: Where the path stands in the recipe, for errors.

    Raises:
        ValueError: If the file is not there, is no text, or holds none.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: expected a file of texts, one a line, at {path}: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{key}: {path} holds no text")
    return texts


def text_batches(module: Any, texts: Sequence[str], device: torch.device) -> list[Mapping[str, Tensor]]:
    """Texts as the network reads them, padded on the right, with an ``attention_mask``.

    Args:
        module: With the network's ``tokenizer``.
        texts: At least one.
        device: Of the batches.

    Raises:
        ValueError: If the module has no tokenizer.
    """
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("texts need the network's tokenizer; there is none beside its weights")
    longest = min(_LONGEST, tokenizer.model_max_length)
    rows = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    batches: list[Mapping[str, Tensor]] = []
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        width = max(map(len, some))
        ids = torch.tensor([row + [padding] * (width - len(row)) for row in some])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in some])
        batches.append({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
    return batches
