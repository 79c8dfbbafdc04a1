"""What a user loads: an artefact as its network, with the way from texts and pictures to its inputs and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fulgurite._hooks import network_class_name
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.loading import load as load_network
from fulgurite.artifact.open_clip_network import PREFIX
from fulgurite.models import (
    IMAGE_TEXT_CLASSES,
    ImageTextAdapter,
    Pooling,
    embed_rows,
    folder_adapter,
    load_encoder_tokenizer,
    read_pooling,
    to_pixels,
)
from fulgurite.models.precision import dtype_of

Encode = Callable[..., Tensor]


def load(
    folder: Path | str,
    *,
    packed: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    base: Path | str | None = None,
) -> Any:
    """Load an artefact as the network it was made from; all of it or an error.

    A text encoder also gets ``encode(texts, batch_size=32)``: its vectors of some texts, float32 ``[n, d]`` on the CPU.
    A CLIP or BLIP gets ``preprocess(picture)``: pixels ``[3, h, w]`` of a ``PIL.Image``, and ``tokenize(texts)``:
    ``int64 [n, t]``; one that writes captions also ``caption(pictures)``, by beam search.

    Args:
        folder: The artefact.
        packed: Keep the weights packed in memory and decode each when it is used: slower, in the memory of
            the artefact plus its largest weight.
        dtype: Of the decoded weights; the network's own by default.
        device: Where to put it; the CPU by default.
        base: Of a delta, the artefact that it is to be added to; by default where the delta says.

    Returns:
        The network, in evaluation mode.

    Raises:
        ArtifactError: If anything is missing, altered, or not what the network needs.
    """
    network = load_network(folder, packed=packed, dtype=dtype, device=device, base=base)
    if (Path(folder) / "modules.json").exists():  # what a text encoder's artefact has beside the network
        tokenizer = load_encoder_tokenizer(str(folder))
        network.encode = _encoder(network, tokenizer, read_pooling(str(folder), network, tokenizer))
    name = network_class_name(network)
    # an artefact may have been written without a tokenizer; one of open_clip needs none
    if name.startswith(PREFIX) or (name in IMAGE_TEXT_CLASSES and any(Path(folder).glob("tokenizer*"))):
        try:
            adapter = folder_adapter(str(folder), network)
        except (ValueError, OSError) as error:
            raise ArtifactError(str(error)) from error
        _attach_image_text(network, adapter)
    return network


def _attach_image_text(network: Any, adapter: ImageTextAdapter) -> None:
    def preprocess(picture: Any) -> Tensor:
        """Pixels of a ``PIL.Image`` as the network reads them, float32 ``[3, h, w]`` on the CPU."""
        return to_pixels(picture, adapter.images)

    def caption(pictures: Sequence[Any], *, num_beams: int = 3, max_new_tokens: int = 30) -> list[str]:
        """Captions of some ``PIL.Image``, by beam search.

        Raises:
            ValueError: If it is given no picture.
        """
        if not pictures:
            raise ValueError("pictures must be a list of at least one, got none")
        # of a packed network, the weights are buffers
        place = next(itertools.chain(network.parameters(), network.buffers())).device
        pixels = torch.stack([preprocess(picture) for picture in pictures]).to(place, dtype_of(network))
        return adapter.generate(network, pixels, num_beams=num_beams, max_new_tokens=max_new_tokens)

    network.preprocess = preprocess
    network.tokenize = adapter.tokenize
    if adapter.writes_captions:
        network.caption = caption


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
