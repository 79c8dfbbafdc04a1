"""``fulgurite checkpoints``: the stages that a run keeps, without importing torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulgurite.checkpoints import (
    LightningCheckpoint,
    StageCheckpoint,
    copy_checkpoint,
    read_checkpoints,
    read_lightning_checkpoints,
    restore_checkpoint,
    select_checkpoint,
)
from fulgurite.reporting.rows import print_rows
from fulgurite.reporting.units import (
    UNKNOWN,
    format_bytes,
    format_number,
    format_ratio,
    format_retained,
    format_score,
    format_time,
)

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLES = """\
  fulgurite checkpoints list runs/books6m
  fulgurite checkpoints show runs/books6m vptq3
  fulgurite checkpoints restore runs/books6m ecq4                 # runs/books6m/artifact is ecq4's again
  fulgurite checkpoints restore runs/books6m ecq2 --rejected --to /tmp/ecq2

Restoring replaces RUN/artifact in one step, with checksums compared before and after; every stage stays, so that
another can be restored later. `fulgurite compress` in the same folder goes on with the stages and ends with the last
accepted one as the result.
"""
_COLOURS = {"accepted": "green", "good": "green", "rejected": "red", "unfinished": "yellow"}


def run(verb: str, arguments: Sequence[str]) -> int:
    """List, show or restore; the exit status is 1 where nothing was done, or where what is shown is damaged."""
    given = _parser(verb).parse_args(list(arguments))
    status: int = given.action(given)
    return status


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description="The stages that a run keeps: their artefacts, bytes, quality and verdicts.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="list|show|restore", required=True)
    for name, action, text in (
        ("list", _list, "a line for each try of each stage; of a fit run, for each Lightning checkpoint"),
        ("show", _show, "all about one try"),
        ("restore", _restore, "make a stage's artefact the run's result, or copy it elsewhere"),
    ):
        sub = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(action=action)
        sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
        if name == "list":
            sub.add_argument(
                "--no-verify", action="store_true", help="do not read the artefacts for their checksums"
            )
        else:
            sub.add_argument("stage", metavar="STAGE", help="name of a stage in the recipe")
            sub.add_argument(
                "--try",
                dest="number",
                type=int,
                metavar="N",
                help="which try (default: the accepted one, else the last one)",
            )
        if name == "restore":
            sub.add_argument(
                "--rejected", action="store_true", help="take a try that its gate has rejected, too"
            )
            sub.add_argument(
                "--to", type=Path, metavar="FOLDER", help="copy it there and leave the run as it is"
            )
        sub.add_argument("--json", action="store_true", help="the same for a program")
    return parser


def _list(given: argparse.Namespace) -> int:
    trained = read_lightning_checkpoints(given.run)
    stages = []
    if not trained or (given.run / "stages").is_dir():
        stages = read_checkpoints(given.run, verify=not given.no_verify)
    if given.json:
        content = {
            "stages": [checkpoint.to_dict() for checkpoint in stages],
            "lightning": [checkpoint.to_dict() for checkpoint in trained],
        }
        print(json.dumps(content, indent=1))
    else:
        console = _console()
        if stages:
            _print_stages(stages, console)
        if trained:
            _print_trained(trained, console)
        if not stages and not trained:
            print(f"{given.run}: no stage has begun")
    return 1 if any(_damaged(checkpoint) for checkpoint in stages) else 0


def _show(given: argparse.Namespace) -> int:
    checkpoint = select_checkpoint(read_checkpoints(given.run), given.run, given.stage, given.number)
    if given.json:
        print(json.dumps({**checkpoint.to_dict(), "outcome": checkpoint.outcome}, indent=1))
    else:
        _print_one(checkpoint, _console())
    return 1 if _damaged(checkpoint) else 0


def _restore(given: argparse.Namespace) -> int:
    if given.to is not None:
        checkpoint = copy_checkpoint(given.run, given.stage, given.to, given.number, rejected=given.rejected)
        told: dict[str, Any] = {**checkpoint.to_dict(), "copied_to": str(given.to)}
        text = f"{given.to} holds {_summary(checkpoint)}; {given.run} is as it was"
    else:
        done = restore_checkpoint(given.run, given.stage, given.number, rejected=given.rejected)
        checkpoint = done.checkpoint
        told = {**checkpoint.to_dict(), "result": True, "before": done.before, "changed": done.changed}
        told["kept"] = None if done.kept is None else str(done.kept)
        text = f"{given.run / 'artifact'} is {_summary(checkpoint)}"
        text += f"; before: {done.before}" if done.changed else "; it was that already"
        if done.kept is not None:
            text += f"\nwhat was there is of no stage of this run and is kept: {done.kept}"
        text += f"\nthe pages are written again by: fulgurite report {given.run}"
    print(json.dumps(told, indent=1) if given.json else text)
    return 0


def _print_stages(checkpoints: Sequence[StageCheckpoint], console: Console) -> None:
    header = (
        "",
        "stage",
        "try",
        "bytes",
        "ratio",
        "retained",
        "verdict",
        "judged",
        "sha256",
        "on disk",
        "checksums",
    )
    rows = [
        (
            "*" if checkpoint.is_result else "",
            checkpoint.stage,
            str(checkpoint.number),
            format_bytes(checkpoint.outcome.get("num_bytes")),
            format_ratio(checkpoint.outcome.get("ratio")),
            format_retained(checkpoint.gate.get("cumulative"), checkpoint.gate.get("cumulative_low")),
            checkpoint.state,
            (checkpoint.when or UNKNOWN)[:19].replace("T", " "),
            (checkpoint.sha256 or UNKNOWN)[:12],
            format_bytes(checkpoint.disk_bytes),
            "damaged" if _damaged(checkpoint) else checkpoint.checksums,
        )
        for checkpoint in checkpoints
    ]
    numeric = [False, False, True, True, True, True, False, False, False, True, False]
    print_rows(header, rows, numeric, console, {**_COLOURS, "damaged": "bold red"})
    results = [checkpoint.name for checkpoint in checkpoints if checkpoint.is_result]
    closing = f"* the result: {results[-1]}" if results else "no stage's artefact is the result"
    closing += f"; all tries take {format_bytes(sum(checkpoint.disk_bytes for checkpoint in checkpoints))}"
    console.print(closing, markup=False, highlight=False, soft_wrap=True)
    for checkpoint in filter(_damaged, checkpoints):
        console.print(
            f"{checkpoint.name}: {checkpoint.checksums}", markup=False, highlight=False, soft_wrap=True
        )


def _print_trained(checkpoints: Sequence[LightningCheckpoint], console: Console) -> None:
    rows = [
        (
            str(checkpoint.path),
            UNKNOWN if checkpoint.epoch is None else str(checkpoint.epoch),
            UNKNOWN if checkpoint.step is None else str(checkpoint.step),
            format_bytes(checkpoint.num_bytes),
            checkpoint.when[:19].replace("T", " "),
        )
        for checkpoint in checkpoints
    ]
    print_rows(
        ("checkpoint", "epoch", "step", "on disk", "written"), rows, [False, *[True] * 3, False], console
    )
    text = "training goes on from one with: fulgurite fit --config ... --ckpt_path CHECKPOINT"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_one(checkpoint: StageCheckpoint, console: Console) -> None:
    outcome, gate = checkpoint.outcome, checkpoint.gate
    lines = [
        f"{checkpoint.name}   {checkpoint.state}{'   the result' if checkpoint.is_result else ''}",
        f"folder     {checkpoint.folder}   {format_bytes(checkpoint.disk_bytes)} on disk, of which the artefact "
        f"{format_bytes(checkpoint.artifact_bytes)}",
        f"sha256     {checkpoint.sha256 or UNKNOWN}   checksums {checkpoint.checksums}",
    ]
    if outcome:
        seconds = "   ".join(f"{name} {format_time(value)}" for name, value in outcome["seconds"].items())
        lines += [
            f"judged     {checkpoint.when}   {seconds}",
            f"size       {outcome['num_bytes']:,} bytes   {format_ratio(outcome['ratio'])}   "
            f"{format_number(outcome['bits_per_weight'], 3)} bits/weight",
            f"verdict    {gate['reason']}",
            f"retained   {format_retained(gate['cumulative'], gate['cumulative_low'])} of the reference; "
            f"{format_retained(gate['retention'], gate['retention_low'])} of the level before",
        ]
        lines += [f"changed    {change}" for change in outcome.get("changes") or []]
        lines += [f"diagnosis  {outcome['diagnosis']}"] if outcome.get("diagnosis") else []
        lines += [f"settings   {line}" for line in _flat(outcome["settings"])]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    if gate.get("per_measure"):
        rows = [
            (
                measure["name"],
                format_score(measure["value"], measure["unit"]),
                format_score(measure["reference"], measure["unit"]),
                format_retained(measure["retention"], measure["low"], measure["high"]),
            )
            for measure in gate["per_measure"]
        ]
        print_rows(("measure", "score", "before", "retained"), rows, [False, True, True, True], console)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {json.dumps(value)}")
    return lines


def _summary(checkpoint: StageCheckpoint) -> str:
    retained = format_retained(checkpoint.gate["cumulative"], checkpoint.gate["cumulative_low"])
    return (
        f"{checkpoint.name} ({checkpoint.state}): {checkpoint.outcome['num_bytes']:,} bytes, "
        f"{format_ratio(checkpoint.outcome['ratio'])}, retained {retained}"
    )


def _damaged(checkpoint: StageCheckpoint) -> bool:
    return checkpoint.checksums not in ("good", "not compared")


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)
