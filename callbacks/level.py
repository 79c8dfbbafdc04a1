"""What a cascade has reached: the last accepted stage, and the entries of a network as it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from callbacks.subject import Subject
from fulgurite.artifact.reader import RAW, Artifact
from fulgurite.codecs import Codec, Encoded, Float16Codec, SparseCodec
from fulgurite.evaluation.measure import Measure

Source = Literal["reference", "previous"]


@dataclass(frozen=True)
class Level:
    """What has been accepted so far.

    Args:
        name: Of the stage, or ``reference``.
        folder: Its artefact; ``None`` where nothing is coded yet.
        measures: What it scored.
        ladders: For each weight that is coded the codecs of which one has coded it.
    """

    name: str
    folder: Path | None
    measures: list[Measure]
    ladders: Mapping[str, Sequence[Codec]] = field(default_factory=dict)

    def weights(self, subject: Subject, source: Source) -> dict[str, Tensor]:
        """The weights that a stage codes: the subject's own, or as this level has them."""
        if source == "reference" or self.folder is None:
            return dict(subject.coded)
        artifact = Artifact(self.folder)
        return {name: artifact.decode(name) for name in subject.parameters}

    def network(self, subject: Subject, source: Source) -> Path | nn.Module:
        """Where a network with those weights is."""
        return self.folder if source == "previous" and self.folder is not None else subject.network

    def complete(self, subject: Subject, encoded: Mapping[str, Encoded]) -> dict[str, Encoded]:
        """All entries of the subject in its order: ``encoded``, and the rest as this level has it."""
        entries = self._entries(subject) | dict(encoded)
        return {name: entries[name] for name in [*subject.parameters, *_raw_names(subject)]}

    def _entries(self, subject: Subject) -> dict[str, Encoded]:
        """Every entry as coded here, or in 16 bits."""
        if self.folder is not None:
            artifact = Artifact(self.folder)
            return {name: artifact.encoded(name) for name in artifact}
        codec = Float16Codec()
        entries = {name: codec.encode(weight) for name, weight in subject.coded.items()}
        if subject.base is not None:  # what fine-tuning left as it was takes some bytes, not 16 bits a weight
            for name, weight in subject.coded.items():
                if not weight.any():
                    entries[name] = SparseCodec(sparsity=0.99).encode(weight)
        state = subject.network.state_dict()
        for name in _raw_names(subject):
            value = state[name].cpu()
            entries[name] = Encoded(
                RAW, tuple(value.shape), str(value.dtype).removeprefix("torch."), {"values": value}
            )
        return entries


def _raw_names(subject: Subject) -> list[str]:
    """Entries of the network's state that are no parameters, such as integer buffers."""
    return [
        name
        for name in subject.network.state_dict()
        if name not in subject.parameters and name not in subject.aliases
    ]
