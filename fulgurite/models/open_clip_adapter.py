r"""Networks of open_clip, https://github.com/mlfoundations/open_clip: CLIP and CustomTextCLIP, SigLIP included.

pixels -> encode_image -\                      scale * cosine + bias
                         -> vectors of length 1 ------------------->
tokens -> encode_text  -/

open_clip wants rows of tokens that are all of its context length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fulgurite.artifact.files import write_folder
from fulgurite.models.adapter import ImageSettings, ImageTextAdapter, until_end
from fulgurite.models.open_clip_files import (
    WEIGHTS_FILE,
    check_fits,
    decode_simple,
    folder_files,
    is_transformers_tokenizer,
)
from fulgurite.models.precision import dtype_of

_JOINT = (
    "logit_scale",
    "logit_bias",
    "visual.proj",
    "visual.head.",
    "text_projection",
    "text.text_projection",
)


class OpenClipAdapter(ImageTextAdapter):
    """The calls of open_clip's networks.

    Args:
        images: How pictures become pixels.
        model_cfg: The network's configuration, open_clip's ``model_cfg``.
        tokenizer: One of open_clip's tokenizers.
    """

    kind: ClassVar[str] = "open_clip"

    def __init__(self, images: ImageSettings, model_cfg: Mapping[str, Any], tokenizer: Any) -> None:
        super().__init__(images)
        self.model_cfg = dict(model_cfg)
        self.tokenizer = tokenizer

    @property
    @override
    def transformers_tokenizer(self) -> Any | None:
        return self.tokenizer.tokenizer if is_transformers_tokenizer(self.tokenizer) else None

    @property
    @override
    def pad_token(self) -> int:
        if is_transformers_tokenizer(self.tokenizer):
            return int(self.tokenizer.tokenizer.pad_token_id)
        return 0  # as open_clip's own tokenizer fills its rows

    @property
    @override
    def context_length(self) -> int:
        return int(self.model_cfg["text_cfg"].get("context_length", 77))

    @override
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        tokens: Tensor = self.tokenizer(list(texts), context_length=self.context_length)
        return tokens.long()

    @override
    def decode(self, tokens: Tensor) -> list[str]:
        if is_transformers_tokenizer(self.tokenizer):
            found = self.tokenizer.tokenizer.batch_decode(tokens.tolist(), skip_special_tokens=True)
            return [text.strip() for text in found]
        return [decode_simple(self.tokenizer, row) for row in tokens.tolist()]

    @override
    def batch(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        return {"image": pixels, "text": tokens}

    @override
    def read_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        # without a causal mask, as in SigLIP, padding is read too
        causal = not self.model_cfg["text_cfg"].get("no_causal_mask", False)
        return until_end(batch["text"], self.pad_token) if causal else None

    @override
    def image_vectors(self, network: nn.Module, pixels: Tensor) -> Tensor:
        found = network.encode_image(pixels.to(dtype_of(network)))  # type: ignore[operator]
        return functional.normalize(found.float(), dim=-1)

    @override
    def text_vectors(self, network: nn.Module, tokens: Tensor) -> Tensor:
        return functional.normalize(network.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]

    @override
    def vectors_of(self, output: Any) -> tuple[Tensor, Tensor]:
        if isinstance(output, Mapping):
            output = (output["image_features"], output["text_features"])
        return functional.normalize(output[0].float(), dim=-1), functional.normalize(
            output[1].float(), dim=-1
        )

    @override
    def scale_and_bias(self, network: nn.Module) -> tuple[Tensor, Tensor | None]:
        bias: Tensor | None = getattr(network, "logit_bias", None)
        scale: Tensor = network.logit_scale  # type: ignore[assignment]
        # some checkpoints keep them as vectors of one element
        return scale.exp().reshape(()), None if bias is None else bias.reshape(())

    @override
    def towers(self, network: nn.Module) -> Mapping[str, str]:
        return {name: _part(name) for name, _ in network.named_parameters()}

    @override
    def files(self, network: nn.Module) -> dict[str, bytes]:
        check_fits(network, self.model_cfg)
        return folder_files(self.model_cfg, self.images, self.tokenizer)

    @override
    def save(self, network: nn.Module, folder: Path) -> None:
        from safetensors.torch import save_file

        files = self.files(network)

        def fill(fresh: Path) -> None:
            state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
            save_file(state, fresh / WEIGHTS_FILE, metadata={"format": "pt"})
            for name, data in files.items():
                (fresh / name).write_bytes(data)

        with torch.no_grad():
            write_folder(Path(folder), fill)


def _part(name: str) -> str:
    if name.startswith(_JOINT):
        return "joint"
    return "image" if name.startswith("visual.") else "text"
