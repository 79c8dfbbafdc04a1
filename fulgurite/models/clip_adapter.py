r"""CLIP and SigLIP of transformers.

pixels -> get_image_features -\                      scale * cosine + bias
                               -> vectors of length 1 ------------------->
tokens -> get_text_features  -/

Versions of transformers differ in what the two calls give; both are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fulgurite.models.adapter import ImageSettings, ImageTextAdapter, until_end
from fulgurite.models.precision import dtype_of
from fulgurite.models.transformers_files import artifact_files, make_processor, save_network

_PARTS = {"vision_model": "image", "text_model": "text"}


class ClipAdapter(ImageTextAdapter):
    """The calls of ``CLIPModel`` and ``SiglipModel``.

    Args:
        images: How pictures become pixels.
        tokenizer: One of transformers, which pads at the end.
        context_length: Tokens of a text at most.
        kind: ``clip``, or ``siglip``, which wants all texts padded to ``context_length``.

    Raises:
        ValueError: If transformers' image processors cannot take pictures so.
    """

    kind: ClassVar[str] = "clip"

    def __init__(
        self, images: ImageSettings, tokenizer: Any, context_length: int, *, kind: str = "clip"
    ) -> None:
        super().__init__(images)
        self.tokenizer = tokenizer
        self.kind = kind  # type: ignore[misc]
        self._length = context_length
        self._processor = make_processor(kind, images, tokenizer)

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
        # SigLIP has read nothing but texts padded to their full length, and pads count in it
        padding = "max_length" if self.kind == "siglip" else True
        found: Tensor = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self._length, return_tensors="pt"
        )["input_ids"]
        return found.long()

    @override
    def decode(self, tokens: Tensor) -> list[str]:
        found = self.tokenizer.batch_decode(tokens.tolist(), skip_special_tokens=True)
        return [text.strip() for text in found]

    @override
    def batch(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        # no mask of pads: in CLIP a token sees those before it alone, and a text's vector is that of its end
        return {"pixel_values": pixels, "input_ids": tokens}

    @override
    def read_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        # SigLIP reads its padding, CLIP sees none of what stands behind a text's end
        return None if self.kind == "siglip" else until_end(batch["input_ids"], self.pad_token)

    @override
    def image_vectors(self, network: nn.Module, pixels: Tensor) -> Tensor:
        found = network.get_image_features(pixel_values=pixels.to(dtype_of(network)))  # type: ignore[operator]
        return _unit(found)

    @override
    def text_vectors(self, network: nn.Module, tokens: Tensor) -> Tensor:
        return _unit(network.get_text_features(input_ids=tokens))  # type: ignore[operator]

    @override
    def vectors_of(self, output: Any) -> tuple[Tensor, Tensor]:
        return _unit(output.image_embeds), _unit(output.text_embeds)

    @override
    def scale_and_bias(self, network: nn.Module) -> tuple[Tensor, Tensor | None]:
        bias: Tensor | None = getattr(network, "logit_bias", None)
        scale: Tensor = network.logit_scale  # type: ignore[assignment]
        return scale.exp().reshape(()), None if bias is None else bias.reshape(())

    @override
    def towers(self, network: nn.Module) -> Mapping[str, str]:
        return {name: _PARTS.get(name.split(".")[0], "joint") for name, _ in network.named_parameters()}

    @override
    def files(self, network: nn.Module) -> dict[str, bytes]:
        return artifact_files(network, self._processor)

    @override
    def save(self, network: nn.Module, folder: Path) -> None:
        save_network(network, self._processor, folder)


def _unit(found: Any) -> Tensor:
    """Vectors of length 1, from vectors or from the output that newer versions wrap them in."""
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return functional.normalize(vectors.float(), dim=-1)
