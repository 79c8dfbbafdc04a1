"""Stages that put another network in the place of the one they get.

    network, teacher, text -> build -> a smaller network, saved -> artefact in 16 bits -> gate
                                       what later stages code, with this stage's weights as their reference

Bits are for codecs; here it is the number of weights that falls.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from typing_extensions import override

from callbacks.stages.advice import Advice
from callbacks.stages.stage import Stage
from fulgurite.codecs import Float16Codec
from lightning_modules.compressible import Compressible


@dataclass(frozen=True)
class Work:
    """What a structural stage has to work with.

    Args:
        subject: The module whose network is to be replaced: the reference, or what an earlier such stage made.
        reference: The module that the run began with: the teacher.
        datamodule: Reads as ``subject``'s tokenizer does.
        folder: For checkpoints and the like; there at a second start, gone once the network is made.
        device: Where to compute.
        cache: Folder for what other runs may use too.
        progress: Called with what is being done, the steps done, the steps in all and a loss.
        check: Called now and then; what it raises ends the run.
    """

    subject: Compressible
    reference: Compressible
    datamodule: LightningDataModule
    folder: Path
    device: torch.device
    cache: Path
    progress: Callable[[str, int, int, float | None], None]
    check: Callable[[], None]


class StructuralStage(Stage):
    """A stage that makes another network.

    Args:
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.
        retries: Further tries with recommended changes after a rejection; the cascade's own by default.
    """

    kind: ClassVar[str]
    """What tables and the record call it."""

    def __init__(self, min_retention: float | None = None, retries: int | None = None) -> None:
        super().__init__(codec=Float16Codec(), min_retention=min_retention, retries=retries)

    @property
    @override
    def technique(self) -> str:
        return self.kind

    @override
    def relaxed(self, advice: Advice) -> tuple[Stage, list[str]] | None:
        return None

    def _check_least(self, **numbers: tuple[float, float]) -> None:
        """Raise if a number is below the least that it may be, which is beside it."""
        for name, (value, least) in numbers.items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    @abstractmethod
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        """Make the network and save it in ``target`` by ``Compressible.save_as``; goes on where a kill stopped it.

        Returns:
            Facts for the record, plain values.

        Raises:
            ValueError: If teacher and student do not fit each other or the data.
        """


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over names and values of a network's weights."""
    digest = hashlib.sha256()
    for name, weight in network.named_parameters():
        values = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def rows_for(teacher: Any, work: Work, count: int) -> Tensor:
    """The train texts as a teacher's own tokenizer cuts them, in the order that the student gets them in.

    Args:
        teacher: Its module.
        work: With the texts.
        count: As the student's ``refinement_windows``.
    """
    datamodule: Any = work.datamodule
    known = getattr(teacher, "tokenizer", None), getattr(work.subject, "tokenizer", None)
    if None in known or known[0] is known[1]:
        rows: Tensor = teacher.refinement_windows(datamodule, count)
        return rows
    try:
        datamodule.use_tokenizer(known[0])
        rows = teacher.refinement_windows(datamodule, count)
    finally:
        datamodule.use_tokenizer(known[1])
    return rows


def check_tokens(teacher: Any, student: Any, remedy: str) -> None:
    """Raise unless the teacher knows the tokens that the data comes in.

    Args:
        teacher: Its module.
        student: The module that the data is read for.
        remedy: What to do otherwise.

    Raises:
        ValueError: If an earlier stage has changed the tokenizer.
    """
    theirs, ours = (getattr(module, "tokenizer", None) for module in (teacher, student))
    if ours is None or theirs is None or ours is theirs:
        return
    known = theirs.get_vocab()
    vocabulary = ours.get_vocab()
    differing = sum(known.get(token) != index for token, index in vocabulary.items())
    if differing:
        raise ValueError(
            f"the teacher must read the student's tokens: to it {differing:,} of the {len(vocabulary):,} tokens mean "
            f"others; {remedy}"
        )
