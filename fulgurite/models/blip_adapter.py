r"""BLIP of transformers: captions of pictures, and whether a text is one of a picture.

    pixels -> image encoder -> cross attention of the decoder -> caption          (BlipForConditionalGeneration)
                            -> cross attention of the text encoder -> match or not  (BlipForImageTextRetrieval)
                            \-> image and text vectors in one space

Reference: Li et al., "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and
Generation", ICML 2022, https://arxiv.org/abs/2201.12086.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fulgurite.models.adapter import ImageSettings, ImageTextAdapter
from fulgurite.models.precision import dtype_of
from fulgurite.models.transformers_files import artifact_files, make_processor, save_network


class _BlipAdapter(ImageTextAdapter):
    """What both networks have in common.

    Args:
        images: How pictures become pixels.
        tokenizer: One of transformers, in BERT's manner, which pads at the end.
        context_length: Tokens of a text at most.

    Raises:
        ValueError: If transformers' image processors cannot take pictures so.
    """

    first: int | None = None
    """What a text begins with, where that is not the tokenizer's own first token."""

    def __init__(self, images: ImageSettings, tokenizer: Any, context_length: int) -> None:
        super().__init__(images)
        self.tokenizer = tokenizer
        self._length = context_length
        self._processor = make_processor(self.kind, images, tokenizer)

    @property
    @override
    def pad_token(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    @override
    def context_length(self) -> int:
        return self._length

    @override
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        found: Tensor = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        )["input_ids"].long()
        if self.first is not None:
            found[:, 0] = self.first
        return found

    @override
    def decode(self, tokens: Tensor) -> list[str]:
        known = len(
            self.tokenizer
        )  # published networks have tokens, such as the first, that their tokenizer lacks
        rows = [[token for token in row if token < known] for row in tokens.tolist()]
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    @override
    def batch(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        mask = (tokens != self.pad_token).long()
        return {"pixel_values": pixels, "input_ids": tokens, "attention_mask": mask}

    @override
    def towers(self, network: nn.Module) -> Mapping[str, str]:
        return {name: _part(name) for name, _ in network.named_parameters()}

    @override
    def files(self, network: nn.Module) -> dict[str, bytes]:
        return artifact_files(network, self._processor)

    @override
    def save(self, network: nn.Module, folder: Path) -> None:
        save_network(network, self._processor, folder)


class BlipCaptionAdapter(_BlipAdapter):
    """The calls of ``BlipForConditionalGeneration``.

    Args:
        images: How pictures become pixels.
        tokenizer: One of transformers, in BERT's manner, which pads at the end.
        context_length: Tokens of a text at most.
        first: What captions begin with, the network's ``text_config.bos_token_id``.
    """

    kind: ClassVar[str] = "blip_caption"
    has_vectors: ClassVar[bool] = False
    writes_captions: ClassVar[bool] = True

    def __init__(self, images: ImageSettings, tokenizer: Any, context_length: int, first: int) -> None:
        super().__init__(images, tokenizer, context_length)
        self.first = first

    @override
    @torch.no_grad()
    def generate(
        self, network: nn.Module, pixels: Tensor, *, num_beams: int = 3, max_new_tokens: int = 30
    ) -> list[str]:
        found = network.generate(  # type: ignore[operator]
            pixel_values=pixels.to(dtype_of(network)),
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=min(max_new_tokens, self._length - 1),
        )
        return self.decode(found)


class BlipMatchingAdapter(_BlipAdapter):
    """The calls of ``BlipForImageTextRetrieval``; ``network(**batch)`` matches, so vectors have calls of their own."""

    kind: ClassVar[str] = "blip_matching"
    matches: ClassVar[bool] = True

    @override
    def image_vectors(self, network: nn.Module, pixels: Tensor) -> Tensor:
        seen = network.vision_model(pixel_values=pixels.to(dtype_of(network))).last_hidden_state  # type: ignore[operator]
        return functional.normalize(network.vision_proj(seen[:, 0]).float(), dim=-1)  # type: ignore[operator]

    @override
    def text_vectors(self, network: nn.Module, tokens: Tensor) -> Tensor:
        mask = (tokens != self.pad_token).long()
        read = network.text_encoder(input_ids=tokens, attention_mask=mask).last_hidden_state  # type: ignore[operator]
        return functional.normalize(network.text_proj(read[:, 0]).float(), dim=-1)  # type: ignore[operator]

    @override
    def match(self, network: nn.Module, pixels: Tensor, tokens: Tensor) -> Tensor:
        found: Tensor = network(**self.batch(pixels.to(dtype_of(network)), tokens)).itm_score
        return found


def _part(name: str) -> str:
    if ".crossattention." in name:
        return "fusion"
    parts = {"vision_model": "image", "text_encoder": "text", "text_decoder": "decoder"}
    return parts.get(name.split(".")[0], "joint")
