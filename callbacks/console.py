"""What a user sees while a cascade runs: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from callbacks.stages.allocating import Decision
from fulgurite.codecs import Encoded
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.planning import POWER, Plan
from fulgurite.evaluation.statistics import minimum_detectable_drop
from fulgurite.evaluation.verdict import Verdict
from fulgurite.reporting.table import render_table
from fulgurite.reporting.units import format_bytes, format_score

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun

_LABEL = 12


class Console:
    """Lines and bars of a run; silent where not enabled, as on all ranks but the first.

    Args:
        enabled: Print at all.
        console: Where to; standard output by default.
    """

    def __init__(self, *, enabled: bool = True, console: RichConsole | None = None) -> None:
        self._console = console or RichConsole(highlight=False, soft_wrap=True)
        self._enabled = enabled
        self._total = 0
        self._items = "windows"  # what a score is measured on, one by one

    def header(self, run: CascadeRun) -> None:
        """The network, and where the run writes."""
        self._total = len(run.cascade.stages)
        self._items = str(run.data.get("items", "windows"))
        count = sum(weight.numel() for weight in run.parameters.values())
        kind = type(run.network).__name__
        name = run.cascade.name or run.folder.path.name
        size = format_bytes(run.reference_bytes)
        output = escape(str(run.folder.path))
        self._line(f"[bold]{escape(name)}[/]  {kind}  {count:,} weights  {size} fp32   output {output}")

    def reference(
        self,
        evaluation: Evaluation,
        data: Mapping[str, Any],
        plan: Plan,
        foreseen: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """The reference's scores, what the gate can tell by them, and how many items it would take to tell more.

        Args:
            evaluation: Of the reference.
            data: Facts of the held-out data.
            plan: What the gate can tell.
            foreseen: The same for each stage, as ``foresee`` gives it.
        """
        if not self._enabled:
            return
        scores = "   ".join(
            f"{measure.name.replace('_', ' ')} {format_score(measure.value, measure.unit)}"
            for measure in evaluation.measures
        )
        self._line(f"{'reference':<{_LABEL}} {scores}   {data['windows']} {self._items}")
        drops, chance = [], []
        for measure, planned in zip(evaluation.measures, plan.measures, strict=True):
            name = measure.name.replace("_", " ")
            if planned.informative:  # a network has no more than all it has above chance to lose
                drops.append((100 * min(1.0, minimum_detectable_drop(measure)), name, planned.items))
            else:
                chance.append(name)
        notes = []
        if drops and len({items for _, _, items in drops}) == 1:
            notes.append(f"that many {self._items} tell a loss of {max(drops)[0]:.1f} points from none")
        elif drops:
            (least, sure, _), (most, weak, items) = min(drops), max(drops)
            notes.append(
                f"losses that are told from none: {least:.1f} points on {sure} to {most:.1f} on {weak} "
                f"with its {items:,} items"
            )
        if chance:
            notes.append(f"at chance on {', '.join(chance)}, which cannot decide")
        if notes:
            self._line(f"{'':<{_LABEL}} {'; '.join(notes)}")
        for stage in foreseen:
            if stage["harmless_rejected"] > 1 - POWER:
                self._line(f"{'':<{_LABEL}} {self._too_few(stage, plan)}")

    def _too_few(self, stage: Mapping[str, Any], plan: Plan) -> str:
        """That a stage would be rejected for want of items, and how many it takes."""
        start = (
            f"{escape(stage['stage'])} needs {100 * stage['needed']:.4g} %: "
            f"{100 * stage['harmless_rejected']:.0f} % of stages that lose nothing would be rejected"
        )
        if stage["more_items"] is None:
            return f"{start}, however many {self._items} there are"
        counts = {measure.items for measure in plan.useful}
        if len(counts) > 1:
            return f"{start}; for 5 % it takes {stage['more_items']:.1f} times the items of each measure"
        (most,) = counts
        return (
            f"{start}; for 5 % it takes {math.ceil(stage['more_items'] * most):,} {self._items}, not {most:,}"
        )

    def note(self, text: str) -> None:
        """Something that a user should know."""
        self._line(f"    {'note':<{_LABEL - 4}} {escape(text)}")

    def verdict(self, verdict: Verdict, diagnosis: str | None = None) -> None:
        """What the gate said, and why it thinks so."""
        severity = f": {verdict.severity}" if verdict.severity != "none" else ""
        outcome = "[green]accepted[/]" if verdict.accepted else f"[red]rejected{severity}[/]"
        self._line(f"    {'gate':<{_LABEL - 4}} {escape(verdict.reason)}   {outcome}")
        if diagnosis:
            self._line(f"    {'':<{_LABEL - 4}} {escape(diagnosis)}")

    def checks(self, checks: Sequence[Mapping[str, Any]]) -> None:
        """Checks of behaviour; those that turned a stage down are in the gate's sentence."""
        for check in checks:
            if not check["rejects"]:
                passed = "[green]passed[/]" if check["passed"] else "[yellow]a remark[/]"
                self._line(f"    {'check':<{_LABEL - 4}} {escape(check['sentence'])}   {passed}")

    def retry(self, changes: Sequence[str]) -> None:
        """What the next try does otherwise."""
        self._line(f"    {'retry':<{_LABEL - 4}} {', '.join(changes)}")

    def rolled_back(self, stage: str, level: str) -> None:
        """A stage is given up."""
        self._line(f"    {'rolled back':<{_LABEL - 4}} {stage} is not used, the level stays {level}")

    def kept(self, stage: str, outcome: Mapping[str, Any]) -> None:
        """A try that an earlier start has finished."""
        self._line(
            f"{stage:<{_LABEL}} try {outcome['number']} kept from before, {format_bytes(outcome['num_bytes'])}"
        )

    def result(self, folder: Path, record: Mapping[str, Any]) -> None:
        """The table and where all of it lies."""
        if self._enabled:
            self._console.print()
            report = folder / "report.html"
            render_table(record, self._console, report=report if report.exists() else None)

    @contextmanager
    def encoding(
        self, index: int, stage: str, count: int, folder: Path
    ) -> Iterator[Callable[[str, Encoded], None]]:
        """A bar over weights, with the bytes so far and the weight at hand."""
        done: dict[str, int] = {}
        label = f"{index + 1}/{self._total} {stage}"
        with self._bar(label, count, "weights") as (advance, close):

            def progress(weight: str, encoded: Encoded) -> None:
                done[weight] = encoded.num_bytes
                if self._enabled:  # other ranks show in the folder only
                    files = list(folder.glob("*.safetensors"))
                    total = sum(done.values()) * len(files) / len(done)
                    advance(len(files), f"{format_bytes(total)}  {weight}")

            yield progress
            if self._enabled:  # all ranks are done: the files' own headers are a few hundred bytes each
                sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
                advance(len(sizes), "")
                close(f"{format_bytes(sum(sizes))} with headers")

    @contextmanager
    def measuring(self, count: int, folder: Path) -> Iterator[Callable[[str], None]]:
        """A bar over weights whose curves are measured."""
        with self._bar("    measure", count, "weights", transient=True) as (advance, _):
            # other ranks show in the folder only
            yield lambda weight: advance(len(list(folder.glob("*.json"))), weight)

    def allocated(self, decision: Decision, numel: Mapping[str, int]) -> None:
        """How bits were given out, in one line."""
        bits = {name: choice.bits for name, choice in decision.choices.items()}
        mean = sum(bits[name] * numel[name] for name in bits) / sum(numel.values())
        exact = sum(value >= 16 for value in bits.values())
        facts = decision.facts
        loss = facts["predicted_loss"]
        notes = [
            f"{mean:.2f} bits per weight by {facts['strategy']}, {min(bits.values()):.2f} to {max(bits.values()):.2f}",
            f"{exact} of {len(bits)} weights in 16 bits" if exact else "",
            f"predicted loss {loss:.3g} nats" if loss is not None else "",
            "no weight's effect stands out of the noise: by the metric alone"
            if facts.get("slopes_measured") is False
            else "",
        ]
        self._line(f"    {'allocate':<{_LABEL - 4}} {', '.join(filter(None, notes))}")

    def corrected(self, decision: Decision) -> None:
        """Weights are encoded again, to meet a limit in bytes."""
        self._line(f"    {'':<{_LABEL - 4}} correction {decision.round}, to meet the limit in bytes")

    @contextmanager
    def refining(self, steps: int) -> Iterator[Callable[[int, float], None]]:
        """A bar over optimiser steps, with the loss."""
        last = [float("nan")]
        with self._bar("    refine", steps, "steps") as (advance, close):

            def progress(step: int, loss: float) -> None:
                last[0] = loss
                advance(step, f"loss {loss:.4f}")

            yield progress
            close(f"loss {last[0]:.4f}")

    @contextmanager
    def building(self, index: int, stage: str) -> Iterator[Callable[[str, int, int, float | None], None]]:
        """A bar for each phase of a structural stage, with its loss where it has one."""
        self._line(f"{index + 1}/{self._total} {stage}")
        phase: list[str] = []
        with ExitStack() as open_bars:
            bars: list[tuple[Callable[[int, str], None], Callable[[str], None]]] = []
            told = [""]

            def end() -> None:
                if bars:
                    bars[0][1](told[0])
                open_bars.close()

            def progress(what: str, done: int, total: int, loss: float | None) -> None:
                if phase != [what]:
                    end()
                    phase[:] = [what]
                    bars[:] = [open_bars.enter_context(self._bar(f"    {what}", total, ""))]
                told[0] = "" if loss is None else f"loss {loss:.4f}"
                bars[0][0](done, told[0])

            yield progress
            end()

    @contextmanager
    def evaluating(self, title: str, windows: int) -> Iterator[Callable[[int], None]]:
        """A bar over held-out windows, or whatever the items are."""
        label = "reference" if title == "reference" else "    evaluate"
        with self._bar(label, windows, self._items, transient=True) as (advance, _):
            yield lambda done: advance(done, "")

    @contextmanager
    def calibrating(self) -> Iterator[Callable[[int], None]]:
        """A count of calibration batches."""
        with self._bar("    calibrate", None, "batches", transient=True) as (advance, _):
            yield lambda done: advance(done, "")

    def fallbacks(self, kind: str, fallbacks: Sequence[Mapping[str, str]]) -> None:
        """Weights that have no metric of the kind that was asked for, in one line; nothing where all have."""
        if fallbacks:
            first, more = fallbacks[0], len(fallbacks) - 1
            others = f", and {more} more" if more else ""
            self._line(
                f"    {'metric':<{_LABEL - 4}} {first['kind']} instead of {kind} for "
                f"{escape(first['weight'])} ({escape(first['reason'])}){others}"
            )

    @contextmanager
    def _bar(
        self, label: str, total: int | None, unit: str, *, transient: bool = False
    ) -> Iterator[tuple[Callable[[int, str], None], Callable[[str], None]]]:
        if not self._enabled:
            yield (lambda done, text: None), (lambda text: None)
            return
        if not self._console.is_terminal:
            count = [0]

            def remember(done: int, text: str) -> None:
                count[0] = done

            def close(text: str) -> None:
                if not transient:
                    self._line(f"{label:<{_LABEL}} {count[0]}/{total} {unit}   {text}")

            yield remember, close
            return
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TextColumn(
                f"{{task.completed}}/{{task.total}} {unit}" if total else f"{{task.completed}} {unit}"
            ),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self._console, transient=transient) as progress:
            task = progress.add_task(label, total=total, text="")
            yield (
                lambda done, text: progress.update(task, completed=done, text=text),
                lambda text: progress.update(task, text=text),
            )

    def _line(self, text: str) -> None:
        if self._enabled:
            self._console.print(text)
