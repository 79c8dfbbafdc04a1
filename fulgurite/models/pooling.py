"""One vector a text from a network's token vectors.

    rows [n, t] -> network -> token vectors [n, t, d] -> mean | cls | max over the text's tokens -> / length

Reference: Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP
2019, https://arxiv.org/abs/1908.10084, section 3.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
}
"""Pooling modes, with their keys in sentence-transformers' older configurations, which all its versions read."""

_POOLING_FOLDER = "1_Pooling"


@dataclass(frozen=True)
class Pooling:
    """How the vectors of a text's tokens become one vector.

    Args:
        mode: Their mean, the first one, or the largest value of each coordinate; padding never counts.
        normalize: Divide the vector by its length.
        max_length: Tokens of a text that are read, the special ones included.

    Raises:
        ValueError: If the mode is unknown or no token would be read.
    """

    mode: Literal["mean", "cls", "max"] = "mean"
    normalize: bool = True
    max_length: int = 256

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"pooling must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}")

    def pool(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """One vector a text.

        Args:
            vectors: Of the tokens, ``[n, t, d]``.
            mask: 1 for a token, 0 for padding, ``[n, t]``.

        Returns:
            ``[n, d]``, of length 1 where ``normalize`` is set.
        """
        if self.mode == "cls":
            first = mask.int().argmax(1)  # 0 unless the padding stands in front
            pooled = vectors[torch.arange(len(vectors), device=vectors.device), first]
        elif self.mode == "max":
            pooled = vectors.masked_fill(mask[..., None] == 0, float("-inf")).max(1).values
        else:
            weights = mask[..., None].to(vectors)
            pooled = (vectors * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
        return functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def files(self, width: int) -> dict[str, bytes]:
        """The files that tell sentence-transformers of it, by their names in the encoder's folder.

        Args:
            width: Of the vectors.
        """
        modules = [("", "Transformer"), (_POOLING_FOLDER, "Pooling")]
        modules += [("2_Normalize", "Normalize")] if self.normalize else []
        listed = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ]
        switches = {switch: mode == self.mode for mode, switch in MODES.items()}
        return {
            "modules.json": _dump(listed),
            "sentence_bert_config.json": _dump({"max_seq_length": self.max_length, "do_lower_case": False}),
            f"{_POOLING_FOLDER}/config.json": _dump({"word_embedding_dimension": width, **switches}),
        }


def embed_rows(
    network: nn.Module,
    rows: Tensor,
    pooling: Pooling,
    pad_token: int,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Vectors of texts, in batches of texts of nearly one length.

    The network runs in eval mode without gradients and goes back to the mode it was in.

    Args:
        network: Called with ``input_ids`` and ``attention_mask``; gives ``last_hidden_state``.
        rows: Padded tokens, ``[n, t]``.
        pooling: How token vectors become one.
        pad_token: What rows are padded with.
        batch_size: Texts at a time.
        progress: Called with the texts done after each batch.

    Returns:
        ``float32 [n, d]`` on the CPU, in the order of ``rows``.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    order = (rows != pad_token).sum(1).argsort(stable=True)
    vectors: list[Tensor] = []
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = token_batch(rows[order[start : start + batch_size]].to(device), pad_token)
                hidden = network(**batch).last_hidden_state.float()
                vectors.append(pooling.pool(hidden, batch["attention_mask"]).cpu())
                if progress is not None:
                    progress(min(start + batch_size, len(rows)))
    finally:
        for module, training in modes.items():  # parts may be frozen in eval mode while the rest trains
            module.training = training
    return torch.cat(vectors)[order.argsort()]


def token_batch(rows: Tensor, pad_token: int) -> dict[str, Tensor]:
    """Keyword arguments of the network: rows cut to the longest text, and a mask of what is text.

    Example:
        >>> token_batch(torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]]), pad_token=0)["attention_mask"]
        tensor([[1, 1],
                [1, 0]])
    """
    mask = (rows != pad_token).long()
    used = mask.any(0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 1
    return {"input_ids": rows[:, :longest], "attention_mask": mask[:, :longest]}


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
