"""The stage that makes a static text encoder of a transformer.

    each token alone -> teacher -> vectors -> principal axes of texts -> table [V, d], rare tokens long
    texts -> teacher (kept on disk) -> vectors -> the table is trained until means of its rows agree
    table -> its own principal axes, the largest first: what codecs take

References: Model2Vec and SIF, see ``fulgurite.models.static_encoder``; training on the teacher's vectors of whole
texts as tokenlearn, https://github.com/MinishLab/tokenlearn. Differs from both: the loss also takes the cosines between
texts, and the axes are those of the trained table, weighted by how often tokens occur, so that its columns are
uncorrelated and most of them small: a transform code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from callbacks.stages.structure import StructuralStage, Work, check_tokens, weights_digest
from callbacks.stages.student_fit import StudentFit
from fulgurite.distillation import Outputs, TeacherCache
from fulgurite.models import embed_rows
from fulgurite.models.static_encoder import StaticEncoder
from lightning_modules.distillation import Distillation, Losses

_SIF = 1e-3  # Arora et al., section 4: between 1e-3 and 1e-4
_HELD_OUT = 512  # texts to judge the training by
_UNSEEN = 0.5  # occurrences of a token that the texts do not have
_DEFAULT = Losses({"vectors": 1.0, "similarity": 20.0})


class StaticEncoderStage(StructuralStage):
    """Put a table of token vectors in the place of a text encoder's transformer.

    A text's vector is then the mean of its tokens' vectors: hundreds of times quicker, and no order of words. The
    tokenizer stays. Later stages code the table. Judge by ``measures: [spearman]``: the vectors are of another space.

    Args:
        dimensions: Of the vectors.
        texts: Train texts that the teacher reads, evenly spaced.
        steps: Optimiser steps; 0 leaves the table as the tokens alone make it.
        learning_rate: Of Adam, relative to the root mean square of the rows' entries.
        batch_size: Texts in a step.
        losses: Of ``vectors``, ``similarity`` and ``contrastive``, with their weights.
        checkpoint_every: Steps between checkpoints; a killed run goes on from the last.
        seed: Of the order of the texts.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a number is out of range.
    """

    kind: ClassVar[str] = "static"

    def __init__(
        self,
        dimensions: int = 256,
        texts: int = 40_000,
        steps: int = 1000,
        learning_rate: float = 0.05,
        batch_size: int = 256,
        losses: Losses = _DEFAULT,
        checkpoint_every: int = 200,
        seed: int = 0,
        min_retention: float | None = None,
    ) -> None:
        super().__init__(min_retention)
        self._check_least(
            dimensions=(dimensions, 1),
            texts=(texts, 2),
            steps=(steps, 0),
            batch_size=(batch_size, 2),
            checkpoint_every=(checkpoint_every, 1),
        )
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        if losses.wanted != {"vectors"}:
            raise ValueError(f"losses of a static encoder compare vectors, got {', '.join(losses.used)}")
        self.dimensions = dimensions
        self.texts = texts
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.losses = losses
        self.checkpoint_every = checkpoint_every
        self.seed = seed

    @override
    def settings(self) -> dict[str, Any]:
        names = ("dimensions", "texts", "steps", "learning_rate", "batch_size", "checkpoint_every", "seed")
        return {"codec": {"name": self.kind}, **{name: getattr(self, name) for name in names}} | {
            "losses": {**asdict(self.losses), "weights": dict(self.losses.weights)}
        }

    @override
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        module: Any = work.reference
        check_tokens(module, work.subject, "let this stage come before those that change them")
        network = module.network
        width = int(network.config.hidden_size)
        if self.dimensions > width:
            raise ValueError(f"dimensions must be at most the teacher's {width}, got {self.dimensions}")
        rows = module.refinement_windows(work.datamodule, self.texts)
        rows = rows[
            (rows != module.pad_token).sum(1).argsort(stable=True)
        ]  # the teacher reads like lengths together
        vectors = self._teach(work, rows)
        axes = _axes(vectors)[:, : self.dimensions]
        goals = functional.normalize(vectors @ axes, dim=1)
        counts = rows.flatten().bincount(minlength=len(module.tokenizer)).float()
        counts[module.pad_token] = 0
        table = self._alone(work, axes, counts)
        student = StaticEncoder.of(table, module.pad_token).to(work.device)  # type: ignore[arg-type]
        losses = self._train(work, student, rows, goals)
        table = student.embeddings.weight.detach().cpu()
        frequency = (counts + _UNSEEN) / (counts + _UNSEEN).sum()
        turned = table @ _axes(table * frequency.sqrt()[:, None])
        turned[module.pad_token] = 0
        module.save_as(target, StaticEncoder.of(turned, module.pad_token))
        return {
            "kind": self.kind,
            "texts": len(rows),
            "tokens_seen": int((counts > 0).sum()),
            "vocabulary": len(table),
            **losses,
        }

    def _teach(self, work: Work, rows: Tensor) -> Tensor:
        """The teacher's vectors of length 1, ``[n, width]``."""
        module: Any = work.reference
        cache = TeacherCache.within(work.cache, f"{weights_digest(module.network)} {module.pooling!r}", rows)

        def ask(some: Tensor) -> dict[str, Tensor]:
            inputs = module.as_batch(some.to(work.device))
            return {"vectors": module.watch(module.network, inputs, frozenset({"vectors"})).vectors}

        def advance(done: int) -> None:
            work.progress("teacher", done, len(rows), None)
            work.check()

        cache.fill(ask, batch_size=64, progress=advance)
        return cache.at(torch.arange(len(rows)))["vectors"]

    def _alone(self, work: Work, axes: Tensor, counts: Tensor) -> Tensor:
        """Vectors of the tokens alone on the texts' axes, weighted by their rarity, ``[V, d]``."""
        module: Any = work.reference
        before, after = around(module.tokenizer)
        count = len(counts)
        tokens = torch.arange(count)[:, None]
        row = [torch.tensor(some).expand(count, -1) for some in (before, after)]
        alone = torch.cat([row[0], tokens, row[1]], dim=1).long()
        alone = alone.masked_fill(alone == module.pad_token, before[0] if before else 0)
        vectors = embed_rows(
            module.network,
            alone,
            replace(module.pooling, normalize=False),
            module.pad_token,
            batch_size=256,
            progress=lambda done: work.progress("tokens", done, count, None),
        )
        share = (counts + _UNSEEN) / (counts + _UNSEEN).sum()
        weights = _SIF / (_SIF + share)
        weights[[module.pad_token, *before, *after]] = 0
        table = (vectors - vectors.mean(0)) @ axes * weights[:, None]
        seen = table[(counts > 0) & (weights > 0)]
        return table / seen.square().mean().sqrt().clamp_min(1e-12)

    def _train(self, work: Work, student: StaticEncoder, rows: Tensor, goals: Tensor) -> dict[str, float]:
        """Train in place; the loss on held-out texts before and after."""
        module: Any = work.reference

        def batch(chosen: Tensor) -> dict[str, Any]:
            inputs = {name: part.to(work.device) for name, part in module.as_batch(rows[chosen]).items()}
            vectors = goals[chosen].to(work.device)
            return {"inputs": inputs, "target": Outputs(inputs["attention_mask"], vectors=vectors)}

        training = Distillation(
            student, module.watch, self.losses, learning_rate=self.learning_rate, steps=max(1, self.steps)
        )
        fit = StudentFit(self.steps, self.batch_size, _HELD_OUT, self.seed, self.checkpoint_every)
        return fit.run(work, training, len(rows), batch)


def around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    tokens, special = found["input_ids"], found["special_tokens_mask"]
    inner = [index for index, flag in enumerate(special) if not flag]
    if not inner:
        return list(tokens), []
    return list(tokens[: inner[0]]), list(tokens[inner[-1] + 1 :])


def _axes(vectors: Tensor) -> Tensor:
    """Principal axes without centring, the largest first, ``[d, d]``, each with its largest entry positive."""
    moment = vectors.double().T @ vectors.double()
    axes = torch.linalg.eigh(moment).eigenvectors.flip(1)
    largest = axes.abs().argmax(0)
    signs = axes[largest, torch.arange(axes.shape[1])].sign()  # an eigenvector's sign is the library's choice
    turned: Tensor = (axes * signs).to(vectors.dtype)
    return turned
