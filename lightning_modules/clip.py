"""Train, measure and distil a network that puts pictures and texts into one space.

    pictures, texts -> two towers -> vectors of all processes -> contrastive loss
                    -> teacher's towers -> affinity ----------/

The second line only where there is a teacher.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fulgurite.evaluation.benchmarks import View, class_vectors
from fulgurite.models import load_image_text
from fulgurite.models.adapter import ImageTextAdapter
from lightning_modules.contrastive import (
    affinity_loss,
    contrastive_loss,
    equal_rows,
    gathered,
    sigmoid_loss,
)
from lightning_modules.image_text import Batch, ImageTextModule

_MOST_SCALE = 100.0  # CLIP's: beyond it training is unstable


class Clip(ImageTextModule):
    """A CLIP of open_clip or transformers, or another network with a tower each for pictures and texts.

    Validation and test log ``loss`` and the scores of ``benchmarks``. The batch of the loss is that of all processes.

    Args:
        source: Folder of open_clip or transformers, hub id, or ``open_clip:NAME`` such as ``open_clip:ViT-B-32``.
        objective: ``softmax`` of CLIP, or ``sigmoid`` of SigLIP.
        teacher: Source of a trained network whose likenesses of pictures and texts are learnt too; it reads pictures
            and tokens as this one does.
        teacher_weight: Share of the teacher in the loss, 0 to 1; the rest is the objective's.
        common: Settings of ``ImageTextModule``.

    Raises:
        ValueError: If not exactly one of ``source`` and ``config`` is given, or a number is out of range.

    Example:
        >>> module = Clip("open_clip:ViT-B-32", pretrained="laion2b_s34b_b79k")
    """

    def __init__(
        self,
        source: str | None = None,
        objective: Literal["softmax", "sigmoid"] = "softmax",
        teacher: str | None = None,
        teacher_weight: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(source=source, **common)
        if not 0 <= teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be in [0, 1], got {teacher_weight}")
        self.objective = objective
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        self._taught: Teacher | None = None

    @override
    def configure_model(self) -> None:
        fresh = self.network is None
        super().configure_model()
        if fresh and not self.adapter.has_vectors:
            raise ValueError(
                f"Clip needs a network with vectors of pictures and texts, got {self.adapter.kind}"
            )
        if fresh and self.teacher is not None:
            self._taught = Teacher(*load_image_text(self.teacher))
            self._taught.check(self.adapter, self.teacher)

    @override
    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 of pictures ``[n, 3, h, w]`` and texts ``[n, t]``, ``[n, d]`` each."""
        network = self._own()
        return self.adapter.vectors_of(network(**self.adapter.batch(pixel_values, input_ids)))

    @override
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, tokens = batch["pixel_values"], batch["input_ids"]
        images, texts = (gathered(self, vectors) for vectors in self(pixels, tokens))
        scale, bias = self.adapter.scale_and_bias(self._own())
        same = equal_rows(gathered(self, self._of_full_width(tokens)))
        if "label" in batch:  # pictures of one class belong to each other's texts, whatever their words
            labels = gathered(self, batch["label"])
            same = same | ((labels[:, None] == labels[None, :]) & (labels[:, None] >= 0))
        if self.objective == "softmax":
            own = contrastive_loss(images, texts, scale, same)
        else:
            own = sigmoid_loss(images, texts, scale, bias, same)
        if self._taught is None:
            return own, {}
        theirs = [gathered(self, vectors) for vectors in self._taught.vectors(pixels, tokens)]
        taught = affinity_loss(images, texts, scale, theirs[0], theirs[1], self._taught.scale)
        total = (1 - self.teacher_weight) * own + self.teacher_weight * taught
        return total, {"contrastive_loss": own.detach(), "affinity_loss": taught.detach()}

    def _of_full_width(self, tokens: Tensor) -> Tensor:
        """Rows as wide on every process, whose longest texts differ."""
        missing = max(0, self.adapter.context_length - tokens.shape[1])
        return functional.pad(tokens, (0, missing), value=self.adapter.pad_token)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # the scale itself, which open_clip and transformers keep as its logarithm
        for name, parameter in self._own().named_parameters():
            if name.rpartition(".")[2] == "logit_scale":
                parameter.data.clamp_(0, math.log(_MOST_SCALE))

    @override
    def on_predict_start(self) -> None:
        """Vectors of all that a picture can be: the classes, or else the captions of the split."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        split = datamodule.split(datamodule.predict_split)
        network = self._own()
        view = View(network, self.adapter, split, batch_size=datamodule.batch_size)
        self._named = "class" if len(split.classes) > 1 else "caption"
        if self._named == "class":
            zero_shot = self.zero_shot()
            self._answers = list(zero_shot.names(split))
            vectors = class_vectors(view, self._answers, zero_shot.templates)
        else:
            self._answers = list(dict.fromkeys(text for texts in split.captions for text in texts))
            vectors = view.text_vectors(self._answers)
        self._answer_vectors = vectors.to(self.device)

    @torch.no_grad()
    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """For each picture its class, or else the nearest of the split's captions."""
        images = self.adapter.image_vectors(self._own(), batch["pixel_values"])
        best = (images @ self._answer_vectors.T).max(1)
        return [
            {"picture": name, self._named: self._answers[index], "cosine": round(cosine, 6)}
            for name, index, cosine in zip(
                self.predicted_names(batch), best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]


class Teacher:
    """A trained network, frozen; not a submodule, so that checkpoints hold the student alone.

    Args:
        network: Of the teacher; in eval mode from now on.
        adapter: How it is called.
    """

    def __init__(self, network: nn.Module, adapter: ImageTextAdapter) -> None:
        network.requires_grad_(False)
        network.eval()
        self.network = network
        self.adapter = adapter
        self.scale = adapter.scale_and_bias(network)[0].detach()

    def check(self, student: ImageTextAdapter, source: str) -> None:
        """Make sure that the teacher reads pictures and texts as its student does.

        Raises:
            ValueError: If it does not.
        """
        theirs = self.adapter
        if theirs.images != student.images:
            raise ValueError(
                f"{source}: the teacher must read pictures as {student.images}, reads {theirs.images}"
            )
        probes = ["a red circle", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "0 1 2"]
        if not torch.equal(student.tokenize(probes), theirs.tokenize(probes)):
            raise ValueError(f"{source}: the teacher must read texts in the student's tokens, reads others")

    @torch.no_grad()
    def vectors(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 of pictures and texts, on the device of these."""
        self.network.to(pixels.device)
        self.scale = self.scale.to(pixels.device)
        # the student may be of another precision
        read = pixels.to(next(self.network.parameters()).dtype)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.adapter.vectors_of(self.network(**self.adapter.batch(read, tokens)))
