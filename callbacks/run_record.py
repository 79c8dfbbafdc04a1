"""Keep a run's record, events and metrics while it goes on; rank 0 writes, the others are silent."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from callbacks.stages.allocating import Decision
from callbacks.stages.stage import Stage
from callbacks.tracking import Tracker, reference_metrics, run_metrics, try_metrics
from fulgurite._version import __version__
from fulgurite.artifact.files import sha256_folder
from fulgurite.artifact.manifest import read_manifest
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.planning import Plan
from fulgurite.reporting.events import EVENTS_NAME, EventLog, read_events
from fulgurite.reporting.record import RECORD_NAME, read_record, write_record

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun


class RunRecord:
    """The record of a run, written after each stage so that a crash leaves a true one.

    Args:
        run: The run it is kept for.
        recipe: The resolved recipe.
        resumed: Whether the run goes on with an earlier start; times add up.
    """

    def __init__(self, run: CascadeRun, recipe: Mapping[str, Any], *, resumed: bool) -> None:
        self._run = run
        self._writes = run.rank == 0
        self._path = run.folder.path / RECORD_NAME
        self._clock = time.monotonic()
        self._seconds_before = 0.0
        self._stage: dict[str, Any] = {}
        self._seen: set[tuple[str, int]] = set()
        self._tries_before = 0
        started = _now()
        if self._writes:
            if resumed and (earlier := _earlier(self._path)) is not None:
                started, self._seconds_before = earlier["started"], float(earlier["seconds"])
                self._tries_before = _count_tries(earlier)
            self._seen = _tries_in(run.folder.path / EVENTS_NAME)
            self._events = EventLog(run.folder.path / EVENTS_NAME)
        network = run.network
        self._record: dict[str, Any] = {
            "schema": "fulgurite-record/1",
            "success": False,
            "level": "reference",
            "name": run.cascade.name or run.folder.path.name,
            "command": run.cascade.command,
            "recipe": dict(recipe),
            "started": started,
            "finished": None,
            "seconds": self._seconds_before,
            "environment": environment(run.device, run.world_size),
            "model": {
                "source": str(getattr(run.module, "source", None) or type(network).__name__),
                "class": type(network).__name__,
                "num_weights": sum(weight.numel() for weight in run.parameters.values()),
            },
            "data": {},
            "reference": {},
            "artifact": None,
            "stages": [],
            "samples": [],
            "notes": [],
        }
        self._tracker = Tracker(run.trainer.loggers if self._writes else [])
        self._tracker.recipe(recipe)
        self._event("resume" if resumed else "start", name=run.folder.path.name)

    def reference(self, evaluation: Evaluation, plan: Plan, foreseen: Sequence[Mapping[str, Any]]) -> None:
        """The reference was measured, and what the gate can tell by it is known."""
        planned = {each.name: each for each in plan.measures}
        data = self._run.data
        self._record["data"] = {key: data.get(key) for key in ("description", "windows", "tokens", "bytes")}
        self._record["data"] |= {key: data[key] for key in ("items", "benchmarks") if key in data}
        self._record["reference"] = {
            "num_bytes": self._run.reference_bytes,
            "checkpoint_bytes": _checkpoint_bytes(self._record["model"]["source"]),
            "scores": {
                measure.name: {
                    "value": measure.value,
                    "chance": measure.chance,
                    "unit": measure.unit,
                    "higher_is_better": measure.higher_is_better,
                    "items": measure.items.size,
                    "informative": planned[measure.name].informative,
                    "error": planned[measure.name].error,
                }
                for measure in evaluation.measures
            },
            "plan": list(foreseen),
            "perplexity": evaluation.facts.get("perplexity"),
        }
        self._event("reference", scores=self._record["reference"]["scores"])
        informative = {name: each.informative for name, each in planned.items()}
        self._tracker.metrics(reference_metrics(evaluation, self._run.reference_bytes, informative), 0)
        self._write()

    def stage_begins(self, name: str, stage: Stage) -> None:
        """A stage is next."""
        self._stage = {
            "name": name,
            "codec": stage.technique,
            "source": stage.source,
            "accepted": False,
            "verdict": "not judged yet",
            "num_bytes": None,
            "ratio": None,
            "bits_per_weight": None,
            "retention": None,
            "retention_low": None,
            "seconds": 0.0,
            "sha256": None,
            "path": None,
            "tries": [],
        }
        self._record["stages"].append(self._stage)
        self._event("stage", stage=name, codec=stage.technique)

    def tried(self, name: str, outcome: Mapping[str, Any]) -> None:
        """A try was judged, or was found judged by an earlier start."""
        stage, gate = self._stage, outcome["gate"]
        effect = effect_of(stage["tries"][-1], outcome) if stage["tries"] else None
        stage["tries"].append(
            {key: value for key, value in outcome.items() if key != "facts"} | {"effect": effect}
        )
        for key in ("num_bytes", "ratio", "bits_per_weight"):
            stage[key] = outcome[key]
        stage["retention"], stage["retention_low"] = gate["cumulative"], gate["cumulative_low"]
        stage["seconds"] += sum(outcome["seconds"].values())
        stage["verdict"] = gate["reason"]
        # again after a resume: loggers begin anew then, the event log does not
        metrics = try_metrics(stage["tries"][-1], len(self._record["stages"]))
        self._tracker.metrics(metrics, _count_tries(self._record))
        if (name, outcome["number"]) in self._seen:
            return
        facts = {
            key: outcome[key]
            for key in ("number", "num_bytes", "ratio", "bits_per_weight", "changes", "seconds")
        }
        self._event("try", stage=name, gate=gate, **facts)
        self._write()

    def allocated(self, name: str, decision: Decision) -> None:
        """It was decided which weight gets how many bits."""
        bits = {weight: choice.bits for weight, choice in decision.choices.items()}
        self._event("allocation", stage=name, **decision.told(), bits=bits)

    def accepted(self, name: str, outcome: Mapping[str, Any]) -> None:
        """The last try is the new level."""
        folder = self._run.folder.try_folder(name, outcome["number"]) / "artifact"
        self._stage |= {"accepted": True, "sha256": sha256_folder(folder), "path": str(folder)}
        self._record |= {"success": True, "level": name}
        self._record["artifact"] = self._artifact(folder)
        self._event("accepted", stage=name)
        self._write()

    def rejected(self, name: str, level: str) -> None:
        """No try of the stage was accepted."""
        self._event("rolled back", stage=name, to=level)
        self._write()

    def note(self, text: str) -> None:
        """Something that a reader of the record should know."""
        self._record["notes"].append(text)
        self._event("note", text=text)

    def finish(
        self,
        level: str,
        samples: list[dict[str, str]],
        pictures: Mapping[str, Any] | None = None,
        efficiency: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The run is over: write all, with tables and plots."""
        from fulgurite.reporting.report import write_report

        self._record |= {"level": level, "samples": samples, "finished": _now()}
        if pictures is not None:
            self._record["pictures"] = pictures
        if efficiency is not None:
            self._record["efficiency"] = efficiency
        self._event("finish", level=level)
        self._write()
        step = _count_tries(self._record)
        self._tracker.metrics(run_metrics(self._record), step)
        self._tracker.table(self._record, step)
        if self._run.cascade.report:
            write_report(self._run.folder.path)
        self._events.close()
        return self._record

    def _artifact(self, folder: Path) -> dict[str, Any]:
        manifest = read_manifest(folder)
        base = self._run.subject.base
        below = {} if base is None else {"base": {**asdict(base.reference), "num_bytes": base.num_bytes}}
        return below | {
            "path": str(self._run.folder.artifact),
            "num_bytes": manifest.num_bytes,
            "tokenizer_bytes": manifest.tokenizer_bytes,
            "ratio": self._run.reference_bytes / manifest.num_bytes,
            "bits_per_weight": manifest.bits_per_weight,
            "sha256": self._stage["sha256"],
            "parts": manifest.bytes_by_part(),
        }

    def _write(self) -> None:
        # while a resumed run goes through what is finished, the earlier record says more than this one
        if self._writes and (self._record["finished"] or _count_tries(self._record) >= self._tries_before):
            self._record["seconds"] = self._seconds_before + time.monotonic() - self._clock
            write_record(self._path, self._record)

    def _event(self, event: str, **fields: Any) -> None:
        if self._writes:
            self._events.append(event, **fields)

    def refined(self, stage: str, loss: float, step: int) -> None:
        """A step of refinement."""
        self._tracker.metrics({f"refine/{stage}/loss": loss}, step, save=False)


def effect_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What the changes of a further try did: bytes and retention gained."""
    gains: dict[str, Any] = {"num_bytes": after["num_bytes"] - before["num_bytes"]}
    for key in ("retention", "cumulative"):
        one, other = before["gate"][key], after["gate"][key]
        gains[key] = None if one is None or other is None else other - one
    return gains


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions and hardware of this run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "fulgurite": __version__,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "lightning": metadata.version("lightning"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "device": name,
        "world_size": world_size,
    }


def _earlier(path: Path) -> dict[str, Any] | None:
    try:
        return read_record(path)
    except (FileNotFoundError, ValueError):  # cut by a crash: its tries are in their own folders
        return None


def _count_tries(record: Mapping[str, Any]) -> int:
    return sum(len(stage["tries"]) for stage in record["stages"])


def _checkpoint_bytes(source: str) -> int | None:
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return sum(path.stat().st_size for path in files) if files else None


def _tries_in(path: Path) -> set[tuple[str, int]]:
    return {(event["stage"], event["number"]) for event in read_events(path) if event["event"] == "try"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
