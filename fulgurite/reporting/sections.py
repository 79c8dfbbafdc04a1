"""The chapters of a report, from the record alone: first what came out, last how to do it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from fulgurite.reporting.behaviour import behaviour_blocks
from fulgurite.reporting.blocks import Block, Code, Document, Fold, Plot, Sample, Section, Table, Text
from fulgurite.reporting.deciding import deciding_gate, result_layers, result_stage
from fulgurite.reporting.pictures import picture_blocks
from fulgurite.reporting.plots import PLOTS
from fulgurite.reporting.table import COLUMNS, NUMERIC, comparison_rows
from fulgurite.reporting.units import (
    UNKNOWN,
    format_bytes,
    format_list,
    format_number,
    format_percent,
    format_retained,
    format_score,
    format_time,
)

if TYPE_CHECKING:
    Record = Mapping[str, Any]


def build_document(record: Record) -> Document:
    """Lay out the report of a record; chapters with nothing to say are left out."""
    chapters: dict[str, Sequence[Block]] = {
        "Stages": _stages(record),
        "Bytes by part": _parts(record),
        "Quality against size": _quality(record),
        "Checks of behaviour": behaviour_blocks(record),
        "Pictures": picture_blocks(record),
        "Error per layer": _layers(record),
        "What each try changed": _tries(record),
        "Samples": [Sample(**{key: each[key] for key in _SAMPLE}) for each in record["samples"]],
        "Load the artefact": _loading(record),
        "Recipe": _recipe(record),
        "Versions and hardware": _facts(record),
    }
    sections = [Section(title, blocks) for title, blocks in chapters.items() if blocks]
    return Document(f"{record['name']}: compression report", summary(record), sections)


_SAMPLE = ("prompt", "reference", "artifact")


def summary(record: Record) -> str:
    """The sentence that sums a run up."""
    reference = format_bytes(record["reference"]["num_bytes"])
    unfinished = "" if record["finished"] else " The run has not finished."
    artifact, stages = record["artifact"], record["stages"]
    if artifact is None:
        names = format_list([stage["name"] for stage in stages])
        tried = f" Rejected: {names}." if stages else ""
        return (
            f"No stage passed its gate: the result is the reference itself, {reference}.{tried}{unfinished}"
        )
    passed = sum(stage["accepted"] for stage in stages)
    stage = result_stage(record)
    assert stage is not None  # check_record: an artefact's level is a stage
    kept = format_retained(stage["retention"], stage["retention_low"])
    base = artifact.get("base")
    over = ""
    if base is not None:
        size = format_bytes(base["num_bytes"])
        over = f" It is a delta over {base['path']}, whose {size} come once for all such."
    return (
        f"{reference} of fp32 weights became {format_bytes(artifact['num_bytes'])}, "
        f"{artifact['ratio']:.1f} times smaller at {artifact['bits_per_weight']:.2f} bits per weight, "
        f"and keeps {kept} of the quality above chance. "
        f"Level {record['level']}, {passed} of {len(stages)} stages accepted.{over}{unfinished}"
    )


def _plot(record: Record, name: str, alt: str, caption: str) -> list[Block]:
    figure = PLOTS[name](record)
    return [] if figure is None else [Plot(name, figure, alt, caption)]


def _stages(record: Record) -> list[Block]:
    rows = comparison_rows(record)
    caption = "Sizes are bytes on disk, ratios are against fp32, retained is against the reference."
    blocks: list[Block] = [Table(caption, COLUMNS, [astuple(row) for row in rows], NUMERIC)]
    blocks += [Text(f"{stage['name']}: {stage['verdict']}") for stage in record["stages"]]
    blocks += [Text(f"Note: {note}") for note in record["notes"]]
    alt = "Bytes by stage: " + ", ".join(f"{row.stage} {row.num_bytes}" for row in rows)
    return blocks + _plot(record, "stage_bytes", alt, "Bytes by stage; hatched where the gate said no.")


def _parts(record: Record) -> list[Block]:
    artifact = record["artifact"]
    if artifact is None:
        return []
    total = max(artifact["num_bytes"], 1)
    rows = [(part, f"{size:,}", format_percent(size / total)) for part, size in artifact["parts"].items()]
    rows.append(("all", f"{artifact['num_bytes']:,}", format_percent(artifact["num_bytes"] / total)))
    alt = "Bytes by part: " + ", ".join(f"{part} {share}" for part, _, share in rows[:-1])
    blocks = _plot(record, "part_bytes", alt, "What the artefact's bytes are spent on.")
    tokenizer = f"The tokenizer's files, {format_bytes(artifact['tokenizer_bytes'])}, are not counted."
    table = Table("Bytes of the artefact.", ("part", "bytes", "of all"), rows, (False, True, True))
    return [*blocks, table, Text(tokenizer), Text(f"SHA-256 {artifact['sha256']}")]


def _quality(record: Record) -> list[Block]:
    data = record["data"]
    rows = []
    for stage in record["stages"]:
        gate = deciding_gate(stage)
        for part in gate["per_measure"] if gate is not None else []:
            unit = part["unit"] if part["unit"] == "%" else ""  # other units stand once, beside the name
            scores = [format_score(part[key], unit) for key in ("reference", "value", "chance")]
            name = part["name"] if unit else f"{part['name']}, {part['unit']}".removesuffix(", ")
            kept = format_retained(part["retention"], part["low"], part["high"])
            kept = kept if part["informative"] else "reference at chance"
            items = _count(part.get("items"))
            rows.append((stage["name"], name, items, *scores, kept, format_number(part["raw_ratio"], 3)))
    points = [f"{row.stage} {row.num_bytes} {row.retained}" for row in comparison_rows(record)]
    caption = "Each try; the stroke down ends at the lower confidence bound. The line joins accepted tries."
    blocks = _plot(record, "quality", "Quality against size: " + ", ".join(points), caption)
    caption = "What the deciding try of each stage kept. A bound must reach its orange stroke."
    blocks += _plot(
        record, "retention", "Retention by stage and measure; the table below has it all.", caption
    )
    if rows:
        header = ("stage", "measure", "items", "reference", "stage's", "chance", "retained", "raw ratio")
        numeric = (False, False, True, True, True, True, True, True)
        blocks.append(Table(f"Measured on {data['description'] or 'the data'}.", header, rows, numeric))
    return [*blocks, *_deciding_measures(record)]


def _deciding_measures(record: Record) -> list[Block]:
    """The reference's scores, the items that they rest on, and which of them decide."""
    rows = [
        (
            name,
            _count(score.get("items")),
            format_score(score["value"], score["unit"]),
            format_score(score["chance"], score["unit"]),
            {True: "yes", False: "no, at chance", None: UNKNOWN}[score.get("informative")],
            UNKNOWN if (error := score.get("error")) is None else f"{100 * error:.2g} points",
        )
        for name, score in record["reference"]["scores"].items()
    ]
    header = ("measure", "items", "reference", "chance", "decides", "error of a retention")
    caption = "What the gate goes by: a measure decides where the reference is surely better than chance."
    return [Table(caption, header, rows, (False, True, True, True, False, True))] if rows else []


def _count(items: int | None) -> str:
    return UNKNOWN if items is None else f"{items:,}"


def _layers(record: Record) -> list[Block]:
    layers = result_layers(record)
    if not layers:
        return []
    rows = [
        (
            layer["weight"],
            layer["codec"],
            f"{layer['num_bytes']:,}",
            format_number(layer["bits_per_weight"]),
            UNKNOWN if layer["nmse"] is None else f"{layer['nmse']:.3g}",
        )
        for layer in layers
    ]
    stage = result_stage(record)
    caption = "Normalised squared error of each weight, in the network's order; exact weights are left out."
    blocks = _plot(record, "layer_error", "Error of each weight; the table below has the numbers.", caption)
    header = ("weight", "codec", "bytes", "bits/weight", "NMSE")
    name = stage["name"] if stage is not None else ""
    table = Table(f"Weights after stage {name}.", header, rows, (False, False, True, True, True))
    return [*blocks, Fold(f"All {len(rows)} weights", table)]


def _tries(record: Record) -> list[Block]:
    rows = []
    for stage in record["stages"]:
        for attempt in stage["tries"]:
            gate, seconds = attempt["gate"], attempt["seconds"]
            reason = "did not reach its gate" if gate is None else f"{_said(gate)}: {gate['reason']}"
            diagnosis = f" {attempt['diagnosis']}" if attempt["diagnosis"] else ""
            changes = ", ".join(attempt["changes"]) or ("first try" if attempt["number"] == 1 else "nothing")
            times = [f"{name} {format_time(spent)}" for name, spent in seconds.items() if spent]
            rows.append(
                (
                    f"{stage['name']} {attempt['number']}",
                    changes,
                    format_bytes(attempt["num_bytes"]),
                    reason + "." * (not reason.endswith(".")) + diagnosis,
                    _refined(attempt["refine"]),
                    ", ".join(times) or UNKNOWN,
                )
            )
    if not rows:
        return []
    header = ("try", "changed", "bytes", "verdict", "refinement", "time")
    table = Table("Every try, in order.", header, rows, (False, False, True, False, False, False))
    return [table]


def _said(gate: Record) -> str:
    if gate["accepted"]:
        return "accepted"
    return "rejected" if gate["severity"] == "none" else f"rejected, {gate['severity']}"


def _refined(refine: Record | None) -> str:
    if refine is None:
        return UNKNOWN
    losses = [
        UNKNOWN if loss is None else f"{loss:.4g}" for loss in (refine["loss_first"], refine["loss_last"])
    ]
    remarks = [", Grokfast"] * refine["grokfast"] + [", not kept"] * (not refine.get("kept", True))
    return f"{refine['steps']} steps, loss {' to '.join(losses)}" + "".join(remarks)


def _loading(record: Record) -> list[Block]:
    artifact = record["artifact"]
    if artifact is None:
        return []
    path = json.dumps(artifact["path"], ensure_ascii=False)  # a string literal of Python too
    lines = ["import fulgurite", f"network = fulgurite.load({path})"]
    if artifact["tokenizer_bytes"]:
        loaded = f"tokenizer = AutoTokenizer.from_pretrained({path})"
        lines = ["import fulgurite; from transformers import AutoTokenizer", lines[1], loaded]
    return [Code("\n".join(lines), "python")]


def _recipe(record: Record) -> list[Block]:
    recipe = json.dumps(record["recipe"], indent=2, ensure_ascii=False)
    return [Code(record["command"], "sh"), Code(recipe, "json")]


def _facts(record: Record) -> list[Block]:
    model, data, reference = record["model"], record["data"], record["reference"]
    counted = {"windows": data.get("items", "windows"), "tokens": "tokens", "bytes": "bytes"}
    facts = {
        "network": f"{model['class']}, {model['num_weights']:,} weights, from {model['source']}",
        "checkpoint": format_bytes(reference["checkpoint_bytes"]),
        "reference scores": ", ".join(
            f"{name} {format_score(score['value'], score['unit'])}"
            for name, score in reference["scores"].items()
        ),
        **(
            {"reference perplexity": format_number(reference["perplexity"])}
            if reference["perplexity"] is not None
            else {}
        ),
        "measured on": ", ".join(
            [
                data["description"] or "text",
                *(f"{data[key]:,} {name}" for key, name in counted.items() if data[key]),
            ]
        ),
        "started": record["started"],
        "finished": record["finished"] or "not finished",
        "took": format_time(record["seconds"]),
        **{
            key.replace("_", " "): str(value)
            for key, value in record["environment"].items()
            if value is not None
        },
    }
    rows = [(name, text or UNKNOWN) for name, text in facts.items()]
    return [Table("What ran, on what.", ("fact", "value"), rows, (False, False))]
