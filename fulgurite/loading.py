"""What a user loads: an artefact as its network, and a text encoder with the way from texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fulgurite.artifact.loading import load as load_network
from fulgurite.models import Pooling, embed_rows, load_encoder_tokenizer, read_pooling

Encode = Callable[..., Tensor]


def load(
    folder: Path | str,
    *,
    packed: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Load an artefact as the network it was made from; all of it or an error.

    A text encoder also gets ``encode(texts, batch_size=32)``: its vectors of some texts, float32 ``[n, d]`` on the CPU.

    Args:
        folder: The artefact.
        packed: Keep the weights packed in memory and decode each when it is used: slower, in the memory of
            the artefact plus its largest weight.
        dtype: Of the decoded weights; the network's own by default.
        device: Where to put it; the CPU by default.

    Returns:
        The network, in evaluation mode.

    Raises:
        ArtifactError: If anything is missing, altered, or not what the network needs.
    """
    network = load_network(folder, packed=packed, dtype=dtype, device=device)
    if (Path(folder) / "modules.json").exists():  # what a text encoder's artefact has beside the network
        tokenizer = load_encoder_tokenizer(str(folder))
        network.encode = _encoder(network, tokenizer, read_pooling(str(folder), network, tokenizer))
    return network


def _encoder(network: Any, tokenizer: Any, pooling: Pooling) -> Encode:
    def encode(texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Vectors of some texts, float32 ``[n, d]`` on the CPU; texts are cut at the encoder's length.

        Raises:
            ValueError: If it is given one text, or none.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts must be a list of at least one, got {texts!r}")
        found = tokenizer(
            list(texts), padding=True, truncation=True, max_length=pooling.max_length, return_tensors="pt"
        )
        return embed_rows(
            network, found["input_ids"], pooling, int(tokenizer.pad_token_id), batch_size=batch_size
        )

    return encode
