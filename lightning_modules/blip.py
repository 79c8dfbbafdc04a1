"""Train and measure a network that writes captions of pictures, or tells which text belongs to a picture.

    picture, caption -> BLIP -> logits of the caption's next tokens -> cross-entropy
    picture, text    -> BLIP -> match or not (true, hardest other) -> cross-entropy, and the contrastive loss

Which of the two the network does, its adapter says.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lightning_modules.contrastive import contrastive_loss, equal_rows
from lightning_modules.image_text import Batch, ImageTextModule


class Blip(ImageTextModule):
    """A BLIP of transformers, for captioning or for image-text matching.

    Reference: Li et al., "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and
    Generation", ICML 2022, https://arxiv.org/abs/2201.12086, section 3.2.
    Differs from the paper: captioning and matching are networks of their own, as transformers has them; the hard
    negatives of matching are drawn from the process's own batch by the network's likenesses, without a queue.

    Args:
        source: Folder or hub id of transformers.
        label_smoothing: Of the captions' tokens; the paper has 0.1.
        common: Settings of ``ImageTextModule``.

    Raises:
        ValueError: If not exactly one of ``source`` and ``config`` is given, or a number is out of range.
    """

    tokenizer_kind: ClassVar[Literal["clip", "bert"]] = "bert"

    def __init__(
        self,
        source: str | None = None,
        label_smoothing: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(source=source, **common)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    @override
    def configure_model(self) -> None:
        fresh = self.network is None
        super().configure_model()
        if fresh and not (self.adapter.writes_captions or self.adapter.matches):
            raise ValueError(
                f"Blip needs a network that writes captions or matches texts, got {self.adapter.kind}"
            )

    @override
    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Any:
        """What the network makes of pictures ``[n, 3, h, w]`` and texts ``[n, t]``."""
        return self._own()(**self.adapter.batch(pixel_values, input_ids))

    @override
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, tokens = batch["pixel_values"], batch["input_ids"]
        if self.adapter.writes_captions:
            return self._caption_loss(pixels, tokens), {}
        images = self.adapter.image_vectors(self._own(), pixels)
        texts = self.adapter.text_vectors(self._own(), tokens)
        same = equal_rows(tokens)
        scale = images.new_tensor(_SCALE)
        contrastive = contrastive_loss(images, texts, scale, same)
        matching = self._matching_loss(pixels, tokens, (scale * images @ texts.T).detach(), same)
        return contrastive + matching, {
            "contrastive_loss": contrastive.detach(),
            "matching_loss": matching.detach(),
        }

    def _caption_loss(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Cross-entropy of each token after the first, padding left out, in nats."""
        logits = self(pixels, tokens).logits[:, :-1].float()
        targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == self.adapter.pad_token, -100)
        # validation has the loss itself: smoothing is for training
        smoothing = self.label_smoothing if self.training else 0.0
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-100, label_smoothing=smoothing
        )

    def _matching_loss(self, pixels: Tensor, tokens: Tensor, likeness: Tensor, same: Tensor) -> Tensor:
        """Each picture with its own text, with another text that it takes for its own, and the other way round."""
        if bool(same.all()):  # no text of another picture to be told from
            return self._match(pixels, tokens, torch.ones(len(tokens)))
        others = likeness.masked_fill(same, float("-inf"))
        usable = (~same).any(1)
        wrong_text = self._chosen(others[usable], 0)
        wrong_picture = self._chosen(others.T[usable], 1)
        rows = usable.nonzero()[:, 0]
        pictures = torch.cat([pixels, pixels[rows], pixels[wrong_picture]])
        texts = torch.cat([tokens, tokens[wrong_text], tokens[rows]])
        belongs = torch.cat([torch.ones(len(tokens)), torch.zeros(2 * len(rows))])
        return self._match(pictures, texts, belongs)

    def _chosen(self, likeness: Tensor, which: int) -> Tensor:
        """One column for each row: in training the likelier the more alike, by step and process; else the likest."""
        if not self.training:
            return likeness.argmax(1)
        # numbers that are told apart whatever the step: a resumed fit draws what an uninterrupted one does
        seed = 2 * (self.global_step * 65_537 + self.global_rank) + which
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(likeness.float().softmax(1).cpu(), 1, generator=generator)
        return drawn[:, 0].to(likeness.device)

    def _match(self, pixels: Tensor, tokens: Tensor, belongs: Tensor) -> Tensor:
        logits = self.adapter.match(self._own(), pixels, tokens)
        return functional.cross_entropy(logits.float(), belongs.long().to(logits.device))

    @torch.no_grad()
    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """A caption for each picture, or how probably the data's caption belongs to it."""
        names, pixels = self.predicted_names(batch), batch["pixel_values"]
        if self.adapter.writes_captions:
            captions = self.adapter.generate(self._own(), pixels)
            return [
                {"picture": name, "caption": caption} for name, caption in zip(names, captions, strict=True)
            ]
        matches = self.adapter.match(self._own(), pixels, batch["input_ids"]).softmax(-1)[:, 1]
        texts = self.adapter.decode(batch["input_ids"])
        return [
            {"picture": name, "caption": text, "match": round(match, 6)}
            for name, text, match in zip(names, texts, matches.tolist(), strict=True)
        ]


_SCALE = 1 / 0.07
"""Of cosines in the contrastive loss: the paper's temperature at its start; transformers' network has none."""
