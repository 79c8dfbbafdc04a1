"""From the encoded weights of a try to its verdict.

encoded -> refined -> artefact, within its limit -> loaded as a user would -> scores -> gate, checks -> outcome
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.gate_run import check_behaviour, evaluate_and_decide
from callbacks.level import Level
from callbacks.recommendation import errors_of
from callbacks.stages.allocating import Decision
from callbacks.stages.encoding import report_layers
from callbacks.stages.fitting import without_growth
from callbacks.stages.metric_file import Metrics
from callbacks.stages.refine import refine
from callbacks.stages.stage import Stage
from fulgurite.artifact.manifest import Manifest, read_manifest
from fulgurite.artifact.reader import RAW
from fulgurite.codecs import Codec, Encoded
from fulgurite.evaluation.recommend import diagnose
from fulgurite.evaluation.verdict import Verdict

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun


@dataclass
class Made:
    """What encoding has made of the weights of a try."""

    encoded: dict[str, Encoded]
    plan: Mapping[str, Codec]
    metrics: Metrics
    decision: Decision | None
    seconds: float
    structure: Mapping[str, Any] | None = None
    repair: Mapping[str, Any] | None = None


def judge(
    run: CascadeRun,
    index: int,
    name: str,
    stage: Stage,
    number: int,
    level: Level,
    changes: list[str],
    made: Made,
) -> None:
    """Refine, write, load and score a try, and keep what came of it in its folder; in what rank 0 leads."""
    folder = run.folder.try_folder(name, number)
    seconds = {"encode": made.seconds}
    clock = time.monotonic()
    encoded, refinement = made.encoded, None
    if stage.refine.steps > 0:
        encoded, refinement = _refine(run, name, stage, encoded, folder)
    seconds["refine"] = time.monotonic() - clock
    clock = time.monotonic()
    manifest, encoded = _write_within(run, folder / "artifact", name, made, encoded)
    compressed = run.devices.network(folder / "artifact")  # from the file, as a user gets it
    evaluation, verdict, looks = evaluate_and_decide(run, compressed, name, index, stage, level)
    evaluation.save(folder / "scores.npz")
    verdict, checks = check_behaviour(run, evaluation, index, verdict)
    before = run.reference_bytes if level.folder is None else read_manifest(level.folder).num_bytes
    if stage.aim == "bytes":
        verdict = demand_fewer_bytes(verdict, manifest.num_bytes, before)
    elif stage.aim == "quality":
        may_grow = getattr(stage, "may_grow", False)
        verdict = demand_better_scores(verdict, manifest.num_bytes, None if may_grow else before)
    seconds["evaluate"] = time.monotonic() - clock
    layers = report_layers(run.subject.coded, {name: encoded[name] for name in made.plan}, made.metrics)
    diagnosis = diagnose(verdict, errors_of([asdict(layer) for layer in layers]))
    run.folder.save_try(
        name,
        number,
        {
            "number": number,
            "settings": stage.settings(),
            "changes": changes,
            "num_bytes": manifest.num_bytes,
            "ratio": run.reference_bytes / manifest.num_bytes,
            "bits_per_weight": manifest.bits_per_weight,
            "seconds": seconds,
            "metric": {"kind": stage.metric, "fallbacks": made.metrics.fallbacks} if made.metrics else None,
            "allocation": None if made.decision is None else made.decision.told(),
            "refine": refinement,
            "structure": None if made.structure is None else dict(made.structure),
            "repair": None if made.repair is None else dict(made.repair),
            "looks": looks,
            "gate": verdict.to_dict(),
            "checks": checks,
            "facts": dict(evaluation.facts),
            "diagnosis": None if verdict.severity == "none" else diagnosis.sentence,
            "layers": [
                asdict(layer) | (made.decision.told_of(layer.weight) if made.decision else {})
                for layer in layers
            ],
        },
    )


def _refine(
    run: CascadeRun, name: str, stage: Stage, encoded: dict[str, Encoded], folder: Path
) -> tuple[dict[str, Encoded], dict[str, Any]]:
    settings = stage.refine
    trainable = {weight: entry for weight, entry in encoded.items() if entry.codec != RAW}
    windows = run.module.refinement_windows(run.datamodule, settings.steps * settings.batch_size + 64)
    with run.console.refining(settings.steps) as progress:

        def advance(step: int, loss: float) -> None:
            progress(step, loss)
            run.record.refined(name, loss, step)

        result = refine(
            run.devices.network(run.network),
            run.module,
            trainable,
            windows,
            settings,
            folder,
            base={} if run.subject.base is None else run.subject.base.weights,
            reweighted=run.devices.reweighted(run.network),
            device=run.devices.home,
            progress=advance,
            check=run.stop.check,
        )
    facts = {
        "steps": result.steps,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "kept": result.kept,
        "grokfast": settings.grokfast is not None,
    }
    return encoded | dict(result.encoded), facts


def _write_within(
    run: CascadeRun, folder: Path, name: str, made: Made, refined: dict[str, Encoded]
) -> tuple[Manifest, dict[str, Encoded]]:
    """Write a try's artefact within the limit that its allocation has met, whatever refinement did."""
    encoded, given_up = refined, set[str]()
    manifest = run.write(folder, encoded)
    while made.decision is not None:
        coded = {weight: encoded[weight] for weight in made.plan}
        excess = made.decision.excess(manifest.num_bytes, coded)
        encoded, undone = without_growth(made.encoded, encoded, excess)
        if not undone:
            break
        given_up.update(undone)
        manifest = run.write(folder, encoded)
    if given_up:
        run.record.note(f"{name}: {len(given_up)} weights are not refined, to stay within the limit")
    return manifest, encoded


def demand_fewer_bytes(verdict: Verdict, num_bytes: int, before: int) -> Verdict:
    """Turn down a stage that the gate would let pass but that is no smaller than the level it would replace."""
    if not verdict.accepted or num_bytes < before:
        return verdict
    reason = f"saves nothing: {num_bytes:,} bytes, {before:,} before"
    return replace(verdict, accepted=False, severity="none", reason=reason)


def demand_better_scores(verdict: Verdict, num_bytes: int, most: int | None) -> Verdict:
    """Turn down a stage that mends nothing, or takes more bytes than it may.

    Args:
        verdict: Of the gate, against the level that is to be mended.
        num_bytes: Of the artefact.
        most: That it may have; ``None`` for any number.
    """
    if not verdict.accepted:
        return verdict
    if verdict.retention is None or not verdict.retention > 1:
        found = "no number" if verdict.retention is None else f"{verdict.retention:.4%}"
        reason = f"mends nothing: {found} of the last level's scores"
    elif most is not None and num_bytes > most:
        reason = f"grows: {num_bytes:,} bytes, {most:,} before"
    else:
        return verdict
    return replace(verdict, accepted=False, severity="none", reason=reason)
