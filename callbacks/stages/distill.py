"""The stage that trains a smaller network to answer as the teacher does.

    teacher -> importance -> student of its parts -> (teacher's outputs kept on disk) -> trained -> saved

Shapes and importance: ``fulgurite.students``; losses and their papers: ``fulgurite.distillation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor
from typing_extensions import override

from callbacks.grokfast import Grokfast
from callbacks.stages.stage import describe
from callbacks.stages.structure import StructuralStage, Work, check_tokens, rows_for, weights_digest
from callbacks.stages.student_fit import StudentFit
from fulgurite.distillation import Outputs, TeacherCache, TopLogits, attention_maps
from fulgurite.students import (
    StudentShape,
    fresh,
    inherit,
    layer_removal,
    measure_importance,
    next_token_loss,
)
from lightning_modules.distillation import Distillation, Losses
from lightning_modules.quantised import Quantise

_IMPORTANCE_BATCHES = 8
_OF_TEXTS = {"vectors", "similarity", "contrastive"}
"""Losses between one vector a text each: student and teacher may cut it into other tokens."""

_CACHED = {"logits", "labels", "vectors", "similarity", "contrastive"}
"""Losses that need nothing of the teacher but what a cache keeps."""


class DistillStage(StructuralStage):
    """Train a student on the teacher's answers and put it in the network's place.

    Args:
        shape: Sizes of the student; what is not given is the network's own.
        start: ``inherit`` the parts that matter most, or ``fresh`` random weights.
        layers_by: Which layers are inherited: by ``removal``, what leaving each out does to the outputs, or by
            ``influence``, how much each changes the states, in one pass.
        teacher: The network that the run began with (``reference``), or what this stage gets (``previous``).
        losses: Their weights; ``logits`` for language models, ``vectors`` and ``similarity`` for text encoders.
        windows: Train windows or texts that are learnt from, evenly spaced.
        steps: Optimiser steps.
        batch_size: Windows in a batch.
        accumulate: Batches to a step.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: For matrices.
        top_logits: Of each position, kept on disk with their probabilities, so that the teacher reads each window
            once; 0 runs it at each step. Losses of inner states run it in any case.
        ema: Decay of the average of the student's weights that is saved in their place; 0 for none.
        precision: Lightning's, such as ``bf16-mixed``; full by default.
        gradient_clip: Largest norm of the gradient.
        quantise: A codec to train for.
        grokfast: A gradient filter, off by default; a claim for it needs its control.
        checkpoint_every: Steps between checkpoints; a killed run goes on from the last.
        seed: Of the order of the windows, and of fresh weights.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a number is out of range.
    """

    kind: ClassVar[str] = "distill"

    def __init__(
        self,
        shape: StudentShape = StudentShape(),  # noqa: B008 (frozen)
        start: Literal["inherit", "fresh"] = "inherit",
        layers_by: Literal["removal", "influence"] = "removal",
        teacher: Literal["reference", "previous"] = "reference",
        losses: Losses = Losses(),  # noqa: B008 (frozen)
        windows: int = 4096,
        steps: int = 1000,
        batch_size: int = 8,
        accumulate: int = 1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        top_logits: int = 32,
        ema: float = 0.0,
        precision: str | None = None,
        gradient_clip: float = 1.0,
        quantise: Quantise | None = None,
        grokfast: Grokfast | None = None,
        checkpoint_every: int = 200,
        seed: int = 0,
        min_retention: float | None = None,
    ) -> None:
        super().__init__(min_retention)
        self._check_least(
            windows=(windows, 2),
            steps=(steps, 0),
            batch_size=(batch_size, 1),
            accumulate=(accumulate, 1),
            top_logits=(top_logits, 0),
            checkpoint_every=(checkpoint_every, 1),
        )
        if batch_size < 2 and {"similarity", "contrastive"} & set(losses.used):
            raise ValueError(
                f"batch_size must be at least 2 to compare the texts of a batch, got {batch_size}"
            )
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        if not 0 <= ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {ema}")
        self.shape = shape
        self.start = start
        self.layers_by = layers_by
        self.teacher = teacher
        self.losses = losses
        self.windows = windows
        self.steps = steps
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.top_logits = top_logits
        self.ema = ema
        self.precision = precision
        self.gradient_clip = gradient_clip
        self.quantise = quantise
        self.grokfast = grokfast
        self.checkpoint_every = checkpoint_every
        self.seed = seed

    @override
    def settings(self) -> dict[str, Any]:
        plain = (bool, int, float, str, type(None))
        own = {
            name: value for name, value in vars(self).items() if isinstance(value, plain) and name[0] != "_"
        }
        for inherited in ("source", "metric", "allocate", "retries", "min_retention"):
            own.pop(inherited, None)
        return {
            "codec": {"name": self.kind},
            **own,
            "shape": {name: size for name, size in asdict(self.shape).items() if size is not None},
            "losses": {**asdict(self.losses), "weights": dict(self.losses.weights)},
            "quantise": None if self.quantise is None else describe(self.quantise.codec),
            "grokfast": self.grokfast is not None,
        }

    @override
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        module: Any = work.subject
        teacher: Any = work.reference if self.teacher == "reference" else work.subject
        if not (self._alone or set(self.losses.used) <= _OF_TEXTS):
            check_tokens(teacher, module, "give teacher: previous, or losses of whole texts")
        self._check_width(module.network, teacher.network)
        beginning = work.folder / "start"
        if not beginning.exists():
            module.save_as(beginning, self._beginning(work))
        student = module.successor(beginning, work.datamodule).network.to(work.device)
        rows = module.refinement_windows(work.datamodule, self.windows)
        losses = self._train(work, student, teacher, rows)
        module.save_as(target, student)
        return {
            "kind": self.kind,
            "windows": len(rows),
            "weights": sum(weight.numel() for weight in student.parameters()),
            **losses,
        }

    @property
    def _alone(self) -> bool:
        """Whether the student learns from the text only, and the teacher has nothing to say."""
        return set(self.losses.used) == {"labels"}

    def _check_width(self, network: Any, teacher: Any) -> None:
        """Raise where vectors could not be compared, before anything is trained."""
        used = [name for name in ("vectors", "contrastive") if name in self.losses.used]
        theirs = teacher.config.hidden_size
        ours = self.shape.hidden_size or network.config.hidden_size
        if used and ours != theirs:
            raise ValueError(
                f"losses {' and '.join(used)} need the teacher's {theirs} dimensions, the student has {ours}; "
                "similarity compares vectors of any width"
            )

    def _beginning(self, work: Work) -> Any:
        """The student before training."""
        module: Any = work.subject
        network = module.network
        if self.start == "fresh":
            return fresh(network.config, self.shape, self.seed)
        batches = list(islice(module.calibration_batches(work.datamodule), _IMPORTANCE_BATCHES))
        language = network.can_generate()
        work.progress("importance", 0, len(batches), None)
        importance = measure_importance(
            network,
            batches,
            next_token_loss if language else None,
            progress=lambda done: work.progress("importance", done, len(batches), None),
        )
        wanted = self.shape.layers
        if self.layers_by == "removal" and wanted is not None and wanted < len(importance.layers):
            removal = layer_removal(
                network,
                batches,
                module.divergence,
                progress=lambda done: work.progress("layers", done, len(batches), None),
            )
            importance = replace(importance, layers=removal)
        work.check()
        return inherit(network, self.shape, importance)

    def _train(self, work: Work, student: Any, teacher: Any, rows: Tensor) -> dict[str, float]:
        """Train in place; the loss on held-out windows before and after.

        Args:
            work: As ``build`` has it.
            student: The network.
            teacher: The module with the teacher's.
            rows: Of tokens, as the student reads them.
        """
        module: Any = work.subject
        cache = None if self._alone else self._teach(work, teacher, rows)

        def batch(chosen: Tensor) -> dict[str, Any]:
            inputs = {name: part.to(work.device) for name, part in module.as_batch(rows[chosen]).items()}
            made: dict[str, Any] = {"inputs": inputs}
            if self._alone:
                made["target"] = Outputs(torch.ones_like(inputs["input_ids"]))
            elif cache is not None:
                kept = {name: part.to(work.device) for name, part in cache.at(chosen).items()}
                made["target"] = _recalled(kept, inputs["input_ids"])
            return made

        training = Distillation(
            student,
            module.watch,
            self.losses,
            teacher=None if self._alone or cache is not None else teacher.network,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=max(1, self.steps),
            quantise=self.quantise,
            seed=self.seed,
        ).to(work.device)
        fit = StudentFit(
            self.steps,
            self.batch_size,
            max(2 * self.batch_size, 16),
            self.seed,
            self.checkpoint_every,
            self.accumulate,
            self.gradient_clip,
            self.precision,
            self._callbacks(),
        )
        maps = [student, teacher.network] if "attentions" in self.losses.used else []
        with attention_maps(maps):
            return fit.run(work, training, len(rows), batch)

    def _callbacks(self) -> list[Callback]:
        found: list[Callback] = [] if self.grokfast is None else [self.grokfast]
        if self.ema:
            from lightning.pytorch.callbacks import EMAWeightAveraging

            found.append(EMAWeightAveraging(decay=self.ema))
        return found

    def _teach(self, work: Work, teacher: Any, rows: Tensor) -> TeacherCache | None:
        """The teacher's outputs for all windows, or ``None`` where it has to run at each step."""
        used = set(self.losses.used)
        if not used <= _CACHED or (used & {"logits", "labels"} and not self.top_logits):
            return None
        asked = f"{self.top_logits} of {sorted(self.losses.wanted)} at {self.losses.temperature}"
        if used <= _OF_TEXTS:
            rows = rows_for(teacher, work, self.windows)
        cache = TeacherCache.within(work.cache, f"{weights_digest(teacher.network)} {asked}", rows)

        def ask(some: Tensor) -> dict[str, Tensor]:
            found = teacher.watch(teacher.network, teacher.as_batch(some.to(work.device)), self.losses.wanted)
            kept: dict[str, Tensor] = {}
            if found.logits is not None:
                top = TopLogits.of(found.logits, self.top_logits, self.losses.temperature)
                kept |= {"indices": top.indices.int(), "log_probability": top.log_probability}
            if found.vectors is not None:
                kept["vectors"] = found.vectors
            return kept

        def advance(done: int) -> None:
            work.progress("teacher", done, len(rows), None)
            work.check()

        cache.fill(ask, batch_size=self.batch_size, progress=advance)
        return cache


def _recalled(kept: Mapping[str, Tensor], tokens: Tensor) -> Outputs:
    """What a cache has kept, as outputs; texts are cut to the batch's longest."""
    top = None
    if "indices" in kept:
        top = TopLogits(kept["indices"][:, : tokens.shape[1]], kept["log_probability"][:, : tokens.shape[1]])
    return Outputs(torch.ones_like(tokens), top=top, vectors=kept.get("vectors"))
