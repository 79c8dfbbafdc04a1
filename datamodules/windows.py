"""Windows over a token stream: every token is predicted once, and every byte counted once.

    tokens   t0 t1 t2 t3 t4 t5 t6 ...       window = 3
    window 0 t0 t1 t2 t3                    reads t0..t2, predicts t1..t3
    window 1          t3 t4 t5 t6           reads t3..t5, predicts t4..t6

Neighbours share one token: the last one predicted is the first one read. Fewer than ``window`` tokens
at the end of a text are left out, so that all windows weigh the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.token_cache import TokenStream


@dataclass(frozen=True)
class Windows:
    """Equal stretches of a text.

    Args:
        input_ids: Tokens, ``int64 [n, window + 1]``: the last ``window`` of each row are predicted.
        num_bytes: UTF-8 bytes of the predicted tokens, ``int64 [n]``.
    """

    input_ids: Tensor
    num_bytes: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_tokens(self) -> int:
        """Predicted tokens of all windows."""
        return self.input_ids.shape[0] * (self.input_ids.shape[1] - 1)


class WindowDataset(Dataset[dict[str, Tensor]]):
    """The windows of a memory-mapped stream, each made when it is asked for.

    Args:
        stream: Tokens of the text.
        window: Tokens predicted in a window.
        limit: Windows at most, evenly spaced over the text.
        with_bytes: Whether an item has ``num_bytes`` beside ``input_ids``.
        name: What errors call the text.

    Raises:
        ValueError: If the stream is too short for one window.
    """

    def __init__(
        self,
        stream: TokenStream,
        window: int,
        limit: int | None = None,
        with_bytes: bool = False,
        name: str = "text",
    ) -> None:
        count = (len(stream) - 1) // window
        if count < 1:
            raise ValueError(f"{name} has {len(stream)} tokens, one window needs {window + 1}")
        self._stream = stream
        self._window = window
        self._with_bytes = with_bytes
        kept = count if limit is None else min(limit, count)
        self._starts = np.arange(kept, dtype=np.int64) * count // kept * window

    def __len__(self) -> int:
        return len(self._starts)

    @override
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = int(self._starts[index])
        tokens = self._stream.tokens[start : start + self._window + 1]
        item = {"input_ids": torch.from_numpy(tokens.astype(np.int64))}
        if self._with_bytes:
            sizes = self._stream.token_bytes[start + 1 : start + self._window + 1]
            item["num_bytes"] = torch.tensor(int(sizes.sum(dtype=np.int64)))
        return item

    def windows(self) -> Windows:
        """All windows at once."""
        offsets = np.arange(self._window + 1)
        index = self._starts[:, None] + offsets  # [n, window + 1]
        sizes = self._stream.token_bytes[index[:, 1:]].sum(1, dtype=np.int64)
        tokens = self._stream.tokens[index].astype(np.int64)
        return Windows(torch.from_numpy(tokens), torch.from_numpy(sizes))


def hold_out(stream: TokenStream, window: int, share: float) -> tuple[TokenStream, TokenStream]:
    """Split a stream in two by whole windows; the second part is its end.

    Args:
        stream: Tokens of the text.
        window: Tokens predicted in a window.
        share: Share of the windows held out, at least one window.

    Returns:
        The streams to train on and to validate on; they share the one token between them.

    Raises:
        ValueError: If the text has fewer than two windows.
    """
    count = (len(stream) - 1) // window
    if count < 2:
        raise ValueError(
            f"train text has {len(stream)} tokens, a window to train on and one to hold out need "
            f"{2 * window + 1}"
        )
    held = min(max(1, round(share * count)), count - 1)
    cut = (count - held) * window
    return stream[: cut + 1], stream[cut:]
