"""A cascade: named stages in order, each judged before the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from callbacks.stages.stage import Stage
from fulgurite.evaluation.gate import Gate
from fulgurite.evaluation.stage_checks import CheckSettings

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun


class Cascade(Callback):
    """Compress the module's network stage by stage, each behind a gate.

    A stage that the gate rejects is tried again with what the verdict recommends, then rolled back to the last
    accepted one. The last accepted stage is the result; where none is, the reference stays as it was.

    Args:
        stages: Stages by name, in order. The name is the level that the result is known by.
        gate: What a stage must retain.
        checks: Shares of right or aligned answers that a stage must not fall below, beside its gate; none by default.
        retries: Further tries of a rejected stage with recommended changes.
        on_reject: After the last rejected try: ``continue`` with the next stage from the last accepted one,
            or ``stop``.
        limit_windows: Held-out windows to judge by at most, evenly spaced; all by default.
        prompts: Texts to be continued in the report; the start of held-out text by default.
        report: Write ``report.md`` and ``report.html`` at the end; a sweep may do without.
        time_budget_minutes: Begin no try that would not end within that time, by what the last one took.
        cache_dir: Folder for the reference's scores, kept under the hash of its weights and the text.
        base: An artefact that the network was fine-tuned from: what is stored is the difference, as a delta over it.
        base_source: The network that the base was made of, a folder or hub id: differences are then of the fine-tuning
            alone. By default they are from what the base decodes to, and make up for its errors too.
        allow_uninformative: Run where the reference is at chance on every measure, so that nothing can be accepted.
        threads: Threads for the arithmetic; by default one per core. The bytes of an artefact depend on it,
            as sums are taken in another order, so every rank takes the same number.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        stages: dict[str, Stage] | None = None,
        gate: Gate = Gate(),  # noqa: B008 (frozen)
        retries: int = 1,
        on_reject: Literal["continue", "stop"] = "continue",
        limit_windows: int | None = None,
        prompts: list[str] | None = None,
        report: bool = True,
        time_budget_minutes: float | None = None,
        cache_dir: str = ".cache/fulgurite",
        base: str | None = None,
        base_source: str | None = None,
        threads: int | None = None,
        allow_uninformative: bool = False,
        checks: CheckSettings | None = None,
    ) -> None:
        if retries < 0:
            raise ValueError(f"cascade.retries must be at least 0, got {retries}")
        for name, value in (
            ("limit_windows", limit_windows),
            ("time_budget_minutes", time_budget_minutes),
            ("threads", threads),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"cascade.{name} must be above 0, got {value}")
        for name in map(str, stages or {}):
            if not name.replace("-", "_").isidentifier():
                raise ValueError(f"a stage's name is a folder's too: letters, digits, _ and -, got {name!r}")
        self.stages = {str(name): stage for name, stage in (stages or {}).items()}
        self.gate = gate
        self.checks = checks
        self.retries = retries
        self.on_reject = on_reject
        self.limit_windows = limit_windows
        self.prompts = list(prompts or [])
        self.report = report
        self.time_budget_minutes = time_budget_minutes
        self.cache_dir = cache_dir
        if base_source is not None and base is None:
            raise ValueError(f"cascade.base_source goes with cascade.base, got {base_source!r} alone")
        self.base = base
        self.base_source = base_source
        self.threads = threads
        self.allow_uninformative = allow_uninformative
        self.recipe: dict[str, Any] | None = None  # what the command line resolved to
        self.command = ""
        self.name = ""
        self.restart = False
        self.run: CascadeRun | None = None

    def on_compress(
        self, trainer: Trainer, pl_module: LightningModule, datamodule: LightningDataModule
    ) -> None:
        """Run the cascade; ``Trainer.compress`` calls it on every rank."""
        from callbacks.cascade_run import CascadeRun

        if not self.stages:
            raise ValueError(
                "cascade.stages is empty: name at least one stage, see configs/cascade/default.yaml"
            )
        self.run = CascadeRun(self, trainer, pl_module, datamodule)
        self.run.execute()

    def settings(self) -> dict[str, Any]:
        """The recipe as far as this object knows it, for runs made from Python."""
        return {
            "cascade": {
                "stages": {name: stage.settings() for name, stage in self.stages.items()},
                "gate": vars(self.gate),
                "checks": None if self.checks is None else vars(self.checks),
                "retries": self.retries,
                "on_reject": self.on_reject,
                "limit_windows": self.limit_windows,
                "base": self.base,
                "base_source": self.base_source,
            }
        }
