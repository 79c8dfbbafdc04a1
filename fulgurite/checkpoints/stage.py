"""One try of a stage as it lies in a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["accepted", "rejected", "unfinished"]


@dataclass(frozen=True)
class StageCheckpoint:
    """A try of a stage: its artefact and what its gate said of it.

    Args:
        stage: Name in the recipe.
        number: Of the try, from 1.
        folder: ``RUN/stages/<stage>/try-<number>``.
        state: What the gate said; ``unfinished`` where it has not come to that.
        outcome: Of ``try.json``; empty where the try is unfinished.
        when: When it was judged, ISO 8601; ``None`` where that is not known.
        disk_bytes: Of all files of the try.
        artifact_bytes: Of the artefact's files, with its tokenizer.
        sha256: Over the artefact's files; ``None`` where there is none, or it was not computed.
        checksums: ``good``, ``not compared``, or what is wrong.
        is_result: Whether ``RUN/artifact`` is this artefact, to the byte.
    """

    stage: str
    number: int
    folder: Path
    state: State
    outcome: Mapping[str, Any] = field(default_factory=dict)
    when: str | None = None
    disk_bytes: int = 0
    artifact_bytes: int = 0
    sha256: str | None = None
    checksums: str = "not compared"
    is_result: bool = False

    @property
    def artifact(self) -> Path:
        """Its artefact."""
        return self.folder / "artifact"

    @property
    def name(self) -> str:
        """Such as ``vptq3, try 2``."""
        return f"{self.stage}, try {self.number}"

    @property
    def gate(self) -> Mapping[str, Any]:
        """The verdict; empty where the try was not judged."""
        return self.outcome.get("gate") or {}

    def to_dict(self) -> dict[str, Any]:
        """All of it but the layers, for a program."""
        gate = self.gate
        return {
            "stage": self.stage,
            "number": self.number,
            "state": self.state,
            "result": self.is_result,
            "folder": str(self.folder),
            "num_bytes": self.outcome.get("num_bytes"),
            "ratio": self.outcome.get("ratio"),
            "bits_per_weight": self.outcome.get("bits_per_weight"),
            "retention": gate.get("cumulative"),
            "retention_low": gate.get("cumulative_low"),
            "verdict": gate.get("reason"),
            "when": self.when,
            "seconds": sum((self.outcome.get("seconds") or {}).values()),
            "sha256": self.sha256,
            "checksums": self.checksums,
            "disk_bytes": self.disk_bytes,
            "artifact_bytes": self.artifact_bytes,
        }
