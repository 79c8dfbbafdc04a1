r"""The stage that trains a smaller CLIP to find pictures and texts alike as the teacher does.

    config + the teacher's tokenizer and pixels -> student -\
                                                             fit on train batches -> saved
    teacher's affinities, captions of the train split ------/

Reference: Wu et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance", ICCV 2023,
https://arxiv.org/abs/2309.12314, section 3.1. Differs from the paper: the student begins with random weights, so it may
have any shape, a residual tower in the place of a transformer among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import seed_everything
from typing_extensions import override

from callbacks.stages.quiet_fit import quiet_fit
from callbacks.stages.structure import StructuralStage, Work
from fulgurite.models import build_image_text, preprocess_of_settings
from lightning_modules.clip import Clip, Teacher

_JUDGED = 8  # batches of calibration pictures on which the loss is told before and after


class TowersStage(StructuralStage):
    """Train another network of both towers on the teacher's affinities and put it in the network's place.

    The network that the run began with is the teacher. Pictures and texts are those of the train split, augmented as
    the data module says. Vectors of the student have a space of their own: leave ``Drift`` out of the benchmarks.

    Args:
        config: Settings of the student, as ``build_image_text`` takes them; it reads pictures as the teacher does, and
            has its tokens.
        steps: Optimiser steps.
        teacher_weight: Share of the teacher in the loss, 0 to 1; the rest is the contrastive objective's.
        objective: ``softmax`` of CLIP, or ``sigmoid`` of SigLIP.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: For matrices.
        precision: Lightning's, such as ``bf16-mixed``; full by default.
        gradient_clip: Largest norm of the gradient.
        checkpoint_every: Steps between checkpoints; a killed run goes on from the last.
        seed: Of the student's weights.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a number is out of range.
    """

    kind: ClassVar[str] = "towers"

    def __init__(
        self,
        config: dict[str, Any],
        steps: int = 1000,
        teacher_weight: float = 0.5,
        objective: Literal["softmax", "sigmoid"] = "softmax",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        precision: str | None = None,
        gradient_clip: float = 1.0,
        checkpoint_every: int = 200,
        seed: int = 0,
        min_retention: float | None = None,
    ) -> None:
        super().__init__(min_retention)
        self._check_least(steps=(steps, 1), checkpoint_every=(checkpoint_every, 1))
        if not 0 <= teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be in [0, 1], got {teacher_weight}")
        for name, value in (("learning_rate", learning_rate), ("gradient_clip", gradient_clip)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.config = dict(config)
        self.steps = steps
        self.teacher_weight = teacher_weight
        self.objective: Literal["softmax", "sigmoid"] = objective
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.precision = precision
        self.gradient_clip = gradient_clip
        self.checkpoint_every = checkpoint_every
        self.seed = seed

    @override
    def settings(self) -> dict[str, Any]:
        names = (
            "config",
            "steps",
            "teacher_weight",
            "objective",
            "learning_rate",
            "weight_decay",
            "precision",
        )
        more = ("gradient_clip", "checkpoint_every", "seed")
        return {"codec": {"name": self.kind}} | {name: getattr(self, name) for name in (*names, *more)}

    @override
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        reference: Any = work.reference
        adapter = getattr(reference, "adapter", None)
        if adapter is None or not adapter.has_vectors or adapter.matches:
            kind = type(reference).__name__ if adapter is None else adapter.kind
            raise ValueError(
                f"TowersStage needs a network with a tower each for pictures and texts, got {kind}"
            )
        training = self._training(reference).to(work.device)
        datamodule: Any = work.datamodule
        before = self._judge(training, work)
        with datamodule.alone():  # other ranks wait, and take no share of the pictures
            loader = datamodule.train_dataloader()
        quiet_fit(
            training,
            loader,
            work.folder / "student.ckpt",
            work.device,
            steps=self.steps,
            gradient_clip=self.gradient_clip,
            checkpoint_every=self.checkpoint_every,
            precision=self.precision,
            progress=lambda step, loss: work.progress("distil", step, self.steps, loss),
            check=work.check,
        )
        after = self._judge(training, work)
        network = training.network
        assert network is not None
        training.adapter.save(network.cpu().eval(), target)
        weights = sum(parameter.numel() for parameter in network.parameters())
        return {"kind": self.kind, "weights": weights, "loss_first": before, "loss_last": after}

    def _training(self, reference: Any) -> Clip:
        """The student under its teacher; the same random weights each time."""
        teacher = reference.adapter
        config = {"preprocess_cfg": preprocess_of_settings(teacher.images), **self.config}
        training = Clip(
            config=config,
            objective=self.objective,
            teacher_weight=self.teacher_weight,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        with torch.random.fork_rng(devices=[]):
            seed_everything(self.seed, verbose=False)
            training.network, training._adapter = build_image_text(config, teacher.transformers_tokenizer)
        training.network.train()
        taught = Teacher(reference.network, teacher)
        taught.check(training.adapter, "the network that the run began with")
        training._taught = taught
        return training

    @torch.no_grad()
    def _judge(self, training: Clip, work: Work) -> float:
        """Mean loss over some train pictures as they are."""
        datamodule: Any = work.datamodule
        network, split = training.network, datamodule.split("train")
        assert network is not None
        network.eval()
        rows = datamodule.calibration_rows(_JUDGED * datamodule.batch_size)
        losses = []
        for some in torch.split(rows, datamodule.batch_size):
            batch = {"pixel_values": split.pixels(some[:, 0].tolist()), "input_ids": some[:, 1:]}
            if split.labels is not None:
                batch["label"] = torch.as_tensor(split.labels)[some[:, 0]]
            batch = {name: values.to(work.device) for name, values in batch.items()}
            losses.append(float(training.loss(batch)[0]))
        network.train()
        return sum(losses) / len(losses)
