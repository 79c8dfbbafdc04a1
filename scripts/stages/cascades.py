"""Three techniques in one cascade, and one codec in the bytes that it comes to.

rcc recipe -> prune, low rank, repair -> record -> bytes -> ecq within them, repaired too -> both on one table
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.page import percent, points, score
from stages.results import Row, apart, read_tries, run
from stages.techniques import DATA_IN_RECIPES, LOWEST_GATE

from fulgurite.reporting.record import read_record
from fulgurite.reporting.table import markdown_rows
from fulgurite.reporting.units import format_list

PLAIN = "_ecq"
"""What the name of the run with one codec ends with."""


@dataclass(frozen=True)
class Cascade:
    """A recipe of several techniques.

    Args:
        key: Of its recipe and its run.
        title: Heading.
        shown: Measures of the table.
        source: The network's place, where it is not the recipe's; ``{runs}`` is the folder of all runs.
    """

    key: str
    title: str
    shown: tuple[str, ...]
    source: str | None = None


CASCADES = (
    Cascade("rcc_cascade", "stories260K", ("bits_per_byte", "next_token")),
    Cascade(
        "rcc_clip_emoji",
        "Emoji CLIP",
        ("image_to_text_r10", "text_to_image_r10", "image_fidelity", "text_fidelity"),
        "{runs}/clip_blip/fit_clip_emoji/network",
    ),
)


def compare(cascade: Cascade, folder: Path, recipes: Path, data: Path) -> None:
    """Run a cascade, then one codec in its bytes, as far as that was not done.

    Raises:
        RuntimeError: If a run fails.
    """
    recipe = _recipe(cascade, folder, recipes, data)
    run(folder, cascade.key, recipe)
    run(folder, cascade.key + PLAIN, plain(recipe, read_record(folder / cascade.key / "record.json")))


def _recipe(cascade: Cascade, folder: Path, recipes: Path, data: Path) -> dict[str, Any]:
    import yaml

    text = (recipes / f"{cascade.key}.yaml").read_text().replace(DATA_IN_RECIPES, str(data))
    recipe: dict[str, Any] = yaml.safe_load(text)
    if cascade.source is not None:
        recipe["model"]["init_args"]["source"] = cascade.source.format(runs=folder.parent)
    return recipe


def plain(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """One codec in the bytes of a cascade's result, with as many steps of training, then the same repair.

    Raises:
        ValueError: If the cascade has no result.
    """
    stages = recipe["cascade"]["stages"]
    accepted = [stage for stage in record["stages"] if stage["accepted"]]
    if not accepted:
        raise ValueError(
            f"a cascade must have a result to be compared, all of {', '.join(stages)} are rejected"
        )
    num_bytes = accepted[-1]["tries"][-1]["num_bytes"]
    trained = [stage["refine"] for stage in stages.values() if "refine" in stage]
    ecq: dict[str, Any] = {
        "codec": {"class_path": "EcqCodec", "init_args": {"states": 8}},
        "metric": "kl",
        "allocate": {**_probes(stages), "budget": num_bytes},
    }
    if trained:
        ecq["refine"] = {**trained[0], "steps": sum(each["steps"] for each in trained)}
    repairs = {name: stage for name, stage in stages.items() if "class_path" in stage}
    settings = {**recipe["cascade"], "gate": LOWEST_GATE, "stages": {"ecq": ecq, **repairs}}
    return {**recipe, "cascade": settings}


def _probes(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an allocation that say how it measures."""
    given = next(stage["allocate"] for stage in stages.values() if "allocate" in stage)
    return {key: given[key] for key in ("probe_windows", "sample") if key in given}


def section(folder: Path) -> str:
    """All cascades that have been run; empty where none has."""
    parts = [text for cascade in CASCADES if (text := _told(cascade, folder))]
    if not parts:
        return ""
    lead = (
        "## Three stages in one cascade\n\nPrune to few bits; code what that has left of the weights by `ecq` with a "
        "correction of low rank where it helps; repair in closed form (`configs/recipes/rcc_cascade.yaml`, "
        "`configs/recipes/rcc_clip_emoji.yaml`), each behind its gate. Below it `ecq` alone, from the reference, in "
        "the bytes of the result, with as many steps of training in all and the same repair. Here *retained* is "
        "what the gate decides by: the share of the level before, with its lower bound."
    )
    return "\n\n".join([lead, *parts])


def _told(cascade: Cascade, folder: Path) -> str:
    ours, others = (_stages(folder / name) for name in (cascade.key, cascade.key + PLAIN))
    if not ours:
        return ""
    reference = ours[0][0].reference
    shown = [name for name in cascade.shown if name in reference]
    header = [
        "stage",
        "bytes",
        "ratio",
        *(name.replace("_", " ") for name in shown),
        "kept",
        "retained",
        "verdict",
    ]
    lines = [["reference", "", "1x", *(score(reference, name) for name in shown), "100.0 %", "", ""]]
    size = int(read_record(folder / cascade.key / "record.json")["reference"]["num_bytes"])
    lines += [_line(row, attempt, shown, size) for row, attempt in [*ours, *others]]
    told = markdown_rows(header, lines, [False, *[True] * (len(header) - 2), False])
    result = [row for row, attempt in ours if attempt["gate"]["accepted"]]
    parts = [f"### {cascade.title}", told]
    known = [row.factored for row, _ in ours if row.factored is not None]
    if known:
        count, of = known[-1]
        parts.append(
            f"In the result {count} of {of} weights have factors of low rank; the others are coded by `ecq` alone."
        )
    wanted = recipe_stages(folder / f"{cascade.key}.yaml")
    if missing := [f"*{name}*" for name in wanted if name not in {row.name for row, _ in ours}]:
        parts.append(
            f"The run was cut off before {format_list(missing)} was judged; the same command goes on."
        )
    if result and others:
        parts.append(_difference(result[-1], [row for row, _ in others]))
    else:
        parts.append("One codec in its bytes has not been run.")
    return "\n\n".join(parts)


def recipe_stages(path: Path) -> list[str]:
    """Names of a recipe's stages."""
    import yaml

    return list(yaml.safe_load(path.read_text())["cascade"]["stages"])


def _line(row: Row, attempt: Mapping[str, Any], shown: list[str], size: int) -> list[str]:
    gate = attempt["gate"]
    retained = "-" if gate["retention"] is None else f"{100 * gate['retention']:.1f} %"
    if gate["retention_low"] is not None:
        retained += f" (at least {100 * gate['retention_low']:.1f})"
    verdict = "accepted" if gate["accepted"] else "rejected"
    cells = [row.name, f"{row.num_bytes:,}", f"{size / row.num_bytes:.1f}x"]
    return [*cells, *(score(row.scores, name) for name in shown), percent(row.kept), retained, verdict]


def _difference(last: Row, others: list[Row]) -> str:
    sentences = []
    for other in others:
        over = last.over(other)
        sure = "apart" if apart(over) else "not apart"
        sentences.append(f"{points(over)} points against *{other.name}* ({sure})")
    return f"What the cascade keeps: {format_list(sentences)}."


def _stages(folder: Path) -> list[tuple[Row, Mapping[str, Any]]]:
    """Rows and tries of a run's stages, in order."""
    rows = read_tries(folder, "")
    if not rows:
        return []
    record = read_record(folder / "record.json")
    known = {str(stage["name"]): stage["tries"][-1] for stage in record["stages"] if stage["tries"]}
    prefix = "alone: " if folder.name.endswith(PLAIN) else ""
    return [(replace(row, name=f"{prefix}{name}"), known[name]) for name, row in rows.items()]
