"""One run of a cascade: the order of things, on every rank.

    reference -> scores
    for each stage: encode (shared over ranks) -> refine -> write -> load as a user would -> score -> gate
                    accepted: publish;  rejected: change what is recommended, try again, or roll back

Ranks share one folder. All ranks gather statistics and encode, rank 0 refines, writes and judges. Every decision is
read back from the folder, so a restarted run and a second rank see what the first one decided.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from callbacks.allocation_run import AllocationRun
from callbacks.calibration_run import stage_metrics
from callbacks.console import Console
from callbacks.delta_base import open_base
from callbacks.devices import devices_of
from callbacks.efficiency_run import measure_run
from callbacks.examples import examples
from callbacks.gate_run import foresee, looked_at, require_information
from callbacks.interrupt import StopOnSignal
from callbacks.judging import Made, judge
from callbacks.level import Level
from callbacks.rank_work import own_work, processes_before, stopped_together
from callbacks.recommendation import recommend
from callbacks.reference_run import measure_reference
from callbacks.repair_run import repair_network
from callbacks.run_folder import RunFolder
from callbacks.run_record import RunRecord
from callbacks.stages.binding import bind
from callbacks.stages.encoding import encode_weights, read_encoded
from callbacks.stages.metric_file import Metrics
from callbacks.stages.repair import RepairStage
from callbacks.stages.stage import Stage
from callbacks.stages.structure import StructuralStage
from callbacks.structure_run import NETWORK_NAME, build_network
from callbacks.subject import Subject, check_finite, fingerprint_of
from callbacks.time_budget import TimeBudget
from fulgurite._hooks import network_class_name
from fulgurite.artifact.manifest import Manifest, read_manifest
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import Codec, Encoded
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.verdict import Verdict
from lightning_modules.compressible import Compressible, EvaluatesItems, introduce

if TYPE_CHECKING:
    from callbacks.cascade import Cascade


class CascadeRun:
    """Carry out a cascade in its folder; see the module for the order of things."""

    def __init__(
        self, cascade: Cascade, trainer: Trainer, module: LightningModule, datamodule: LightningDataModule
    ) -> None:
        if not isinstance(module, Compressible):
            raise ValueError(
                f"{type(module).__name__} cannot be compressed: it does not implement Compressible"
            )
        self.cascade = cascade
        self.trainer = trainer
        self._module: Compressible = module
        self.datamodule = datamodule
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self.device = trainer.strategy.root_device
        self.folder = RunFolder(trainer.strategy.broadcast(str(trainer.default_root_dir)))
        self.console = Console(enabled=self.rank == 0)
        self.stop = StopOnSignal()
        self.budget = TimeBudget(cascade.time_budget_minutes)

    def execute(self) -> None:
        """Run to the end, or to where the user stops it."""
        threads = self.cascade.threads or os.cpu_count() or 1
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with self.stop, stopped_together(self.stop), torch.random.fork_rng(devices=[]):
                self._execute()
        finally:
            torch.set_num_threads(before)
            self.folder.release()

    def _execute(self) -> None:
        self.devices = devices_of(
            self.trainer,
            self._module,
            self.cascade.stages,
            lambda: self.network,
            based=self.cascade.base is not None,
        )
        self.reference = self.subject = Subject.of(self._module, self.devices.home)
        check_finite(self.parameters)
        if self.cascade.base is not None:
            self.reference = self.subject = self._over_base(self.cascade.base)
        kind = type(self.network).__name__
        for name, stage in self.cascade.stages.items():
            if isinstance(stage, StructuralStage):
                break  # what names the next network's weights have is not known yet
            # a pattern that matches nothing is known before any work
            stage.plan(self.parameters, key=f"cascade.stages.{name}", network=kind)
        self._check_data()
        fingerprint = fingerprint_of(self.parameters)
        below = self.subject.base
        recipe = self.cascade.recipe or self.cascade.settings()
        resumed = self._claim(recipe, fingerprint + (below.reference.checksum if below else ""))
        before = processes_before(self.folder.path) if resumed else None
        self.record = RunRecord(self, recipe, resumed=resumed)
        self.console.header(self)
        if before not in (None, self.world_size):
            so = "" if self.devices.in_step else "; the bytes do not depend on it"
            self._tell(f"processes: {self.world_size}, before {before}{so}")
        reference = measure_reference(self, fingerprint)
        self.plan = self.cascade.gate.plan(reference.measures)
        foreseen = foresee(self.cascade.gate, self.cascade.stages, self.plan)
        checks = self.cascade.checks
        foretold = [] if checks is None else checks.foretold(reference.measures, len(self.cascade.stages))
        self.record.reference(reference, self.plan, foreseen)
        self.console.reference(reference, self.data, self.plan, foreseen)
        for sentence in foretold:
            self._tell(sentence)
        require_information(self.plan, allowed=self.cascade.allow_uninformative)
        _, why = looked_at(self, reference.measures)
        if why:
            self.record.note(f"gate.looks: every try is judged by all items at once: {why}")
        level = Level("reference", None, list(reference.measures))
        for index, (name, stage) in enumerate(self.cascade.stages.items()):
            if self._out_of_time(name):
                break
            accepted = self._run_stage(index, name, stage, level)
            if accepted is None and self.cascade.on_reject == "stop":
                self.record.note(f"stopped after {name} was rejected")
                break
            level = accepted or level
        self._finish(level)

    def _over_base(self, folder: str) -> Subject:
        """The network with only what it has over its base to be coded."""
        for name, stage in self.cascade.stages.items():
            if isinstance(stage, StructuralStage | RepairStage):
                raise ValueError(
                    f"cascade.base: over a base, stages code weights; {name} is a {type(stage).__name__}"
                )
        base = open_base(folder, self.cascade.base_source, self.network, self.parameters)
        return self.subject.over(base)

    @property
    def module(self) -> Compressible:
        """Whose network stages work on now."""
        return self.subject.module

    @property
    def network(self) -> Any:
        """The network itself, as its weights were before they were coded."""
        return self.subject.network

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Its weights, tied ones once."""
        return self.subject.parameters

    def _check_data(self) -> None:
        """Find out that a text is missing before anything is thrown away or computed."""
        self.data = self.module.data_facts(self.datamodule, self.cascade.limit_windows)
        for stage in self.cascade.stages.values():
            codecs = [stage.codec, *stage.overrides.values()]
            calibrates = stage.metric != "identity" and any(codec.uses_hessian for codec in codecs)
            trains = stage.refine.steps > 0 or isinstance(stage, StructuralStage | RepairStage)
            if trains or calibrates or stage.allocate is not None:
                self.module.refinement_windows(self.datamodule, 2)

    def _claim(self, recipe: dict[str, Any], fingerprint: str) -> bool:
        """Rank 0 takes the folder; if it may not, every rank says so and none waits for another."""
        resumed, failure = False, ""
        if self.rank == 0:
            try:
                data = str(self.data["sha256"])
                resumed = self.folder.claim(recipe, fingerprint, data, restart=self.cascade.restart)
            except (ValueError, OSError) as error:
                failure = str(error)
        failure = self.trainer.strategy.broadcast(failure)
        if failure:
            raise ValueError(failure)
        return resumed

    def evaluate(self, network: Any, title: str, items: Sequence[int] | None = None) -> Evaluation:
        """Measure a network on the held-out data, or on some of its items, under a bar of this title."""
        count = int(self.data["windows"]) if items is None else len(items)
        with self.console.evaluating(title, count) as progress:

            def advance(done: int) -> None:
                progress(done)
                self.stop.check()

            limit = self.cascade.limit_windows
            if items is None:
                return self.module.evaluate_network(network, self.datamodule, limit=limit, progress=advance)
            assert isinstance(self.module, EvaluatesItems)
            return self.module.evaluate_items(network, self.datamodule, items, limit=limit, progress=advance)

    # one stage

    def _run_stage(self, index: int, name: str, stage: Stage, level: Level) -> Level | None:
        changes: list[str] = []
        most = 1 + (self.cascade.retries if stage.retries is None else stage.retries)
        self.record.stage_begins(name, stage)
        if isinstance(stage, RepairStage) and level.folder is None:
            self.record.note(f"{name}: no stage before it was accepted, so there is nothing to repair")
            self.record.rejected(name, level.name)
            return None
        for number in range(1, most + 1):
            outcome = self.folder.load_try(name, number)
            fresh = outcome is None
            if outcome is None:
                outcome = self._try(index, name, stage, number, level, changes)
            else:
                self.console.kept(name, outcome)
            self.record.tried(name, outcome)
            self.budget.took(outcome)
            verdict = Verdict.from_dict(outcome["gate"])
            self.console.verdict(verdict, outcome["diagnosis"])
            self.console.checks(outcome.get("checks") or ())
            folder = self.folder.try_folder(name, number)
            if verdict.accepted:
                if isinstance(stage, StructuralStage):
                    self.subject = self._succeeded(folder / NETWORK_NAME)
                accepted = Level(
                    name,
                    folder / "artifact",
                    list(Evaluation.load(folder / "scores.npz").measures),
                    self._ladders(name, stage, level),
                )
                if self.rank == 0 and fresh:
                    self.folder.publish(folder / "artifact")
                self.record.accepted(name, outcome)
                self.trainer.strategy.barrier("published")
                return accepted
            if number == most:
                break
            advice = recommend(stage, verdict, outcome["layers"])
            if advice is None:
                self.record.note(f"{name}: nothing left to change")
                break
            if self._out_of_time(
                f"a further try of {name}", advice[0].refine.steps / max(1, stage.refine.steps)
            ):
                break
            stage, changes = advice
            self.console.retry(changes)
        self.record.rejected(name, level.name)
        self.console.rolled_back(name, level.name)
        return None

    def _try(
        self, index: int, name: str, stage: Stage, number: int, level: Level, changes: list[str]
    ) -> dict[str, Any]:
        folder = self.folder.try_folder(name, number)
        clock = time.monotonic()
        if isinstance(stage, StructuralStage):
            return self._restructure(index, name, stage, number, level, changes)
        if isinstance(stage, RepairStage):
            return self._repair(index, name, stage, number, level, changes)
        weights = level.weights(self.subject, stage.source)
        kind = type(self.network).__name__
        plan = stage.plan(self.parameters, key=f"cascade.stages.{name}", network=kind)
        ladders = stage.ladders(plan)
        metrics = stage_metrics(self, stage, ladders, level, folder)
        chosen = {weight: weights[weight] for weight in plan}

        def encode(codecs: Mapping[str, Codec]) -> None:
            self._encode(index, name, bind(codecs, chosen, metrics), chosen, metrics, folder)

        decision = None
        if stage.allocate is None:
            encode(plan)
        else:
            decision = AllocationRun(
                self,
                name,
                stage,
                folder,
                weights=chosen,
                ladders=ladders,
                metrics=metrics,
                complete=lambda encoded: level.complete(self.subject, encoded),
                network=lambda: self.devices.network(level.network(self.subject, stage.source)),
                offsets=self.subject.offsets(stage.source),
                encode=encode,
            ).execute()

        def finish() -> None:
            encoded = level.complete(self.subject, read_encoded(folder / "layers", list(plan)))
            made = Made(encoded, plan, metrics, decision, time.monotonic() - clock)
            judge(self, index, name, stage, number, level, changes, made)

        self.devices.lead(finish)
        self.trainer.strategy.barrier("judged")
        return self._outcome(name, number)

    def _restructure(
        self, index: int, name: str, stage: StructuralStage, number: int, level: Level, changes: list[str]
    ) -> dict[str, Any]:
        """Make another network and judge it in 16 bits; rank 0 only, the others wait."""
        if self.rank == 0:
            clock = time.monotonic()
            folder = self.folder.try_folder(name, number)
            facts = build_network(self, index, name, stage, folder)
            seconds = time.monotonic() - clock
            before, self.subject = self.subject, self._succeeded(folder / NETWORK_NAME)
            try:
                encoded = Level(name, None, []).complete(self.subject, {})
                made = Made(encoded, {}, Metrics(None), None, seconds, facts)
                judge(self, index, name, stage, number, level, changes, made)
            finally:
                self.subject = before
                self.read_as(before)
        self.trainer.strategy.barrier("judged")
        return self._outcome(name, number)

    def _ladders(self, name: str, stage: Stage, level: Level) -> dict[str, Sequence[Codec]]:
        """What each weight may have been coded with, once a stage is accepted."""
        if isinstance(stage, StructuralStage):
            return {}
        if isinstance(stage, RepairStage):
            return dict(level.ladders)
        kind = type(self.network).__name__
        plan = stage.plan(self.parameters, key=f"cascade.stages.{name}", network=kind)
        return {**level.ladders, **stage.ladders(plan)}

    def _repair(
        self, index: int, name: str, stage: RepairStage, number: int, level: Level, changes: list[str]
    ) -> dict[str, Any]:
        """Mend what the level has and judge it; rank 0 only, the others wait."""
        if self.rank == 0:
            clock = time.monotonic()
            folder = self.folder.try_folder(name, number)
            encoded, facts = repair_network(self, index, name, stage, level, folder)
            plan = {entry["weight"]: stage.codec for entry in facts["weights"]}
            seconds = time.monotonic() - clock
            made = Made(encoded, plan, Metrics(None), None, seconds, repair=facts)
            judge(self, index, name, stage, number, level, changes, made)
        self.trainer.strategy.barrier("judged")
        return self._outcome(name, number)

    def _succeeded(self, folder: Path) -> Subject:
        """What a structural stage has made, and the data as its tokenizer reads it."""
        self.read_as(self.reference)
        successor = self.reference.module.successor(folder, self.datamodule, self.cascade.limit_windows)
        subject = Subject.of(successor, self.device)
        self.read_as(subject)
        return subject

    def read_as(self, subject: Subject) -> None:
        """Let the data be read as a network reads it."""
        introduce(self.datamodule, subject.module)

    def _outcome(self, name: str, number: int) -> dict[str, Any]:
        outcome = self.folder.load_try(name, number)
        if outcome is None:
            folder = self.folder.try_folder(name, number)
            raise RuntimeError(
                f"{folder}: rank {self.rank} does not see what rank 0 wrote; is the folder shared?"
            )
        return outcome

    def _encode(
        self,
        index: int,
        name: str,
        codecs: Mapping[str, Codec],
        weights: Mapping[str, Tensor],
        metrics: Metrics,
        folder: Path,
    ) -> None:
        """Encode this rank's share of the weights, and wait for the others."""
        with self.console.encoding(index, name, len(codecs), folder / "layers") as progress:

            def advance(weight: str, encoded: Encoded) -> None:
                progress(weight, encoded)
                self.stop.check()

            with own_work(self.rank):
                encode_weights(
                    weights,
                    codecs,
                    metrics,
                    folder / "layers",
                    rank=self.rank,
                    world_size=self.world_size,
                    device=self.device,
                    progress=advance,
                )
            self.trainer.strategy.barrier("encoded")

    def write(self, folder: Path, encoded: Mapping[str, Encoded]) -> Manifest:
        """Write the network as an artefact."""
        return write_artifact(
            folder,
            encoded,
            model_class=network_class_name(self.network),
            aliases=self.subject.aliases,
            files=self.module.artifact_files(),
            base=None if self.subject.base is None else self.subject.base.reference,
        )

    # the end

    def _finish(self, level: Level) -> None:
        def conclude() -> None:
            samples: list[dict[str, str]] = []
            pictures: dict[str, Any] | None = None
            if level.folder is not None:
                self.folder.ensure_published(level.folder)  # a kill may have come between verdict and copy
                samples, pictures = examples(self)
            efficiency = measure_run(self, level) if self.cascade.report else None
            record = self.record.finish(level.name, samples, pictures, efficiency)
            self.console.result(self.folder.path, record)

        self.devices.lead(conclude)
        self.success = level.folder is not None
        self.trainer.strategy.barrier("finished")

    @property
    def reference_bytes(self) -> int:
        """Bytes of the reference in fp32, tied weights once: what every ratio is against."""
        return 4 * sum(weight.numel() for weight in self.reference.parameters.values())

    def _out_of_time(self, what: str, longer_refinement: float = 1.0) -> bool:
        refusal = self.trainer.strategy.broadcast(self.budget.refusal(max(1.0, longer_refinement)))
        if refusal is None:
            return False
        self._tell(f"{refusal}: {what} is not begun")
        return True

    def _tell(self, text: str) -> None:
        self.record.note(text)
        self.console.note(text)

    def manifest(self) -> Manifest | None:
        """The result's manifest, if there is a result."""
        return read_manifest(self.folder.artifact) if self.folder.artifact.exists() else None
