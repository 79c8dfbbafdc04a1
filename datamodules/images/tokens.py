"""Rows of tokens of texts, each text tokenised once.

texts -> known? -> adapter.tokenize, without padding -> kept -> padded together, int64 [n, t]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.adapter import ImageTextAdapter

_AT_ONCE = 4096  # texts that the tokenizer is handed


class TokenRows:
    """Tokens of texts as ``adapter.tokenize`` gives them.

    Args:
        adapter: Of the network that reads them.
    """

    def __init__(self, adapter: ImageTextAdapter) -> None:
        self._adapter = adapter
        self._kept: dict[str, bytes] = {}  # int32 tokens without padding
        alone = adapter.tokenize(["a"])
        # networks with learned positions want rows of one width; then a short text's row is as wide
        self._width = adapter.context_length if alone.shape[1] == adapter.context_length else None
        # a tokenizer may pad with the token that ends a text: that one is no padding
        self._last = int(self._width is None and int(alone[0, -1]) == adapter.pad_token)

    def learn(self, texts: Iterable[str]) -> None:
        """Tokenise texts that are not known yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            rows = self._adapter.tokenize(part).numpy().astype(np.int32)
            for text, row in zip(part, rows, strict=True):
                filled = np.flatnonzero(row != self._adapter.pad_token)
                length = min(len(row), (int(filled[-1]) + 1 if len(filled) else 0) + self._last)
                self._kept[text] = row[:length].tobytes()

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, the special ones included, ``[n]``."""
        self.learn(texts)
        return np.array([len(self._kept[text]) // 4 for text in texts], np.int64)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens of texts, padded to the longest or to the width that the network wants, int64 ``[n, t]``."""
        self.learn(texts)
        rows = [np.frombuffer(self._kept[text], np.int32) for text in texts]
        width = self._width or max(map(len, rows), default=0)
        padded = np.full((len(rows), width), self._adapter.pad_token, np.int64)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return torch.from_numpy(padded)
