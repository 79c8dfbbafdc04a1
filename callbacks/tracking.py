r"""What loggers are told: one dictionary of metrics for Weights & Biases, TensorBoard and CSV files.

    outcome of a try -> try_metrics   \
    scores of the reference            > flat names -> every logger of the trainer
    record of the run -> run_metrics  /
    record -> comparison table -> wandb.Table, TensorBoard's text, comparison.md beside the CSV file

``NAMES`` says what each name means; ``docs/tracking.md`` is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fulgurite.artifact.files import write_file
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.reporting.table import markdown_rows, markdown_table

NAMES: Mapping[str, tuple[str, str, str]] = {
    # name: (when, unit, meaning); a star stands for a measure, a check or a stage
    "reference/bytes": ("reference", "bytes", "weights in fp32, tied ones once"),
    "reference/*": ("reference", "the measure's", "score of the reference"),
    "chance/*": ("reference", "the measure's", "score of who ignores the context"),
    "informative/*": ("reference", "0 or 1", "whether the reference is surely above chance"),
    "stage/index": ("try", "number", "place of the stage in the recipe, from 1"),
    "rate/bytes": ("try", "bytes", "artefact, the tokenizer apart"),
    "rate/ratio": ("try", "times", "smaller than fp32"),
    "rate/bits_per_weight": ("try", "bits", "every byte counted"),
    "score/*": ("try", "the measure's", "score of the compressed network"),
    "retention/*": ("try", "fraction", "of the reference's score above chance"),
    "retention_low/*": ("try", "fraction", "its lower confidence bound"),
    "degradation/*": ("try", "the measure's", "how much worse than the reference; below 0 is better"),
    "p/*": ("try", "probability", "of as large a loss if there were none, Holm's correction"),
    "check/*": ("try", "fraction", "share that a check of behaviour is of"),
    "check_passed/*": ("try", "0 or 1", "whether it passed"),
    "check_state/*": ("try", "-1, 0, 1", "below, within, above what is wanted"),
    "check_rejects/*": ("try", "0 or 1", "whether it turns the stage down"),
    "gate/accepted": ("try", "0 or 1", "verdict"),
    "gate/severity": ("try", "0, 1, 2", "none, mild, severe"),
    "gate/needed": ("try", "fraction", "retention needed against the last level"),
    "gate/retention": ("try", "fraction", "retention against the last level"),
    "gate/retention_low": ("try", "fraction", "its lower confidence bound"),
    "gate/cumulative": ("try", "fraction", "retention against the reference"),
    "gate/cumulative_low": ("try", "fraction", "its lower confidence bound"),
    "gate/items_seen": ("try", "fraction", "items that the verdict took"),
    "retry/number": ("try", "number", "of the try within its stage, from 1"),
    "retry/bytes": ("try", "bytes", "more than the try before"),
    "retry/retention": ("try", "fraction", "gained over the try before, against the last level"),
    "retry/cumulative": ("try", "fraction", "the same against the reference"),
    "time/encode_s": ("try", "seconds", "encoding"),
    "time/refine_s": ("try", "seconds", "refinement"),
    "time/evaluate_s": ("try", "seconds", "writing, loading, scoring, judging"),
    "time/try_s": ("try", "seconds", "all of it"),
    "refine/*/loss": ("step of refinement", "nats", "divergence from the reference, of the stage"),
    "run/success": ("end", "0 or 1", "whether a stage was accepted"),
    "run/bytes": ("end", "bytes", "result; the reference's where nothing was accepted"),
    "run/ratio": ("end", "times", "smaller than fp32"),
    "run/retention": ("end", "fraction", "of the result, against the reference"),
    "run/retention_low": ("end", "fraction", "its lower confidence bound"),
    "run/accepted_stages": ("end", "number", "stages that were accepted"),
    "run/tries": ("end", "number", "tries in all"),
    "run/time_s": ("end", "seconds", "all starts of the run together"),
    "run/latency_ms": ("end", "ms", "median time of a pass of the result, where it was measured"),
    "run/latency_ratio": ("end", "times", "that of the reference over it"),
    "run/peak_memory_bytes": ("end", "bytes", "at the peak of that pass"),
}

_STATES = {"below": -1.0, "within": 0.0, "above": 1.0}
_SEVERITIES = {"none": 0.0, "mild": 1.0, "severe": 2.0}


class Tracker:
    """Sends metrics and the table to loggers.

    Args:
        loggers: Of the trainer; none on other ranks than the first.
    """

    def __init__(self, loggers: Sequence[Any]) -> None:
        self._loggers = list(loggers)

    def metrics(self, metrics: Mapping[str, float], step: int, *, save: bool = True) -> None:
        """Send numbers.

        Args:
            metrics: By name.
            step: Number of the try in the run, or the step of a refinement.
            save: Write them now, where the logger keeps them in memory.

        Raises:
            KeyError: If a name is not in ``NAMES``.
        """
        unknown = [name for name in metrics if not is_known(name)]
        if unknown:
            raise KeyError(f"metrics must be named in callbacks.tracking.NAMES, got {', '.join(unknown)}")
        for logger in self._loggers:
            logger.log_metrics(dict(metrics), step=step)
            if save:
                logger.save()

    def recipe(self, recipe: Mapping[str, Any]) -> None:
        """Send the resolved recipe to loggers that show settings beside numbers."""
        for logger in self._loggers:
            if hasattr(logger, "log_table"):
                logger.log_hyperparams(dict(recipe))

    def table(self, record: Mapping[str, Any], step: int) -> None:
        """Send the table that compares the stages, in the best form that each logger has."""
        for logger in self._loggers:
            text = getattr(getattr(logger, "experiment", None), "add_text", None)
            if hasattr(logger, "log_table"):  # Weights & Biases
                columns, rows = comparison_data(record)
                logger.log_table("comparison", columns=columns, data=rows)
            elif text is not None:  # TensorBoard
                text("comparison", markdown_table(record), step)
            elif getattr(logger, "log_dir", None):
                write_file(Path(logger.log_dir) / "comparison.md", f"{markdown_table(record)}\n".encode())
            logger.save()


def is_known(name: str) -> bool:
    """Whether ``NAMES`` says what a name means."""
    return name in NAMES or any("*" in known and fnmatchcase(name, known) for known in NAMES)


def reference_metrics(
    evaluation: Evaluation, num_bytes: int, informative: Mapping[str, bool]
) -> dict[str, float]:
    """The reference under the names that every logger sees."""
    metrics: dict[str, float | None] = {"reference/bytes": float(num_bytes)}
    for measure in evaluation.measures:
        metrics[f"reference/{measure.name}"] = measure.value
        metrics[f"chance/{measure.name}"] = measure.chance
        metrics[f"informative/{measure.name}"] = float(informative[measure.name])
    return _known(metrics)


def try_metrics(outcome: Mapping[str, Any], index: int) -> dict[str, float]:
    """The numbers of a try.

    Args:
        outcome: As ``try.json`` has it, with the ``effect`` of its changes.
        index: Place of its stage, from 1.
    """
    gate, seconds, effect = outcome["gate"], outcome["seconds"], outcome.get("effect") or {}
    metrics: dict[str, float | None] = {
        "stage/index": index,
        "rate/bytes": outcome["num_bytes"],
        "rate/ratio": outcome["ratio"],
        "rate/bits_per_weight": outcome["bits_per_weight"],
        "gate/accepted": gate["accepted"],
        "gate/severity": _SEVERITIES[gate["severity"]],
        "retry/number": outcome["number"],
        "retry/bytes": effect.get("num_bytes"),
        "retry/retention": effect.get("retention"),
        "retry/cumulative": effect.get("cumulative"),
        "time/try_s": sum(spent or 0.0 for spent in seconds.values()),
    }
    for key in ("needed", "retention", "retention_low", "cumulative", "cumulative_low"):
        metrics[f"gate/{key}"] = gate[key]
    looks = outcome.get("looks")
    metrics["gate/items_seen"] = 1.0 if looks is None else looks["seen"] / looks["of"]
    metrics |= {f"time/{key}_s": value for key, value in seconds.items()}
    for measure in gate["per_measure"]:
        name, value = measure["name"], measure["value"]
        metrics[f"score/{name}"] = value
        metrics[f"retention/{name}"] = measure["retention"]
        metrics[f"retention_low/{name}"] = measure["low"]
        metrics[f"p/{name}"] = measure.get("p_holm")
        if value is not None and measure["reference"] is not None:
            worse = measure["reference"] - value
            # higher is better where the reference is above chance
            rises = measure["chance"] is None or measure["reference"] >= measure["chance"]
            metrics[f"degradation/{name}"] = worse if rises else -worse
    for check in outcome.get("checks") or ():
        name = check["name"]
        metrics[f"check/{name}"] = check["value"]
        metrics[f"check_passed/{name}"] = check["passed"]
        metrics[f"check_state/{name}"] = _STATES.get(check["state"])
        metrics[f"check_rejects/{name}"] = check["rejects"]
    return _known(metrics)


def run_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The end of a run."""
    accepted = [stage for stage in record["stages"] if stage["accepted"]]
    result = next((stage for stage in record["stages"] if stage["name"] == record["level"]), None)
    efficiency = record.get("efficiency") or {}
    small, large = efficiency.get("artifact") or {}, efficiency.get("reference") or {}
    fast, slow = small.get("latency_p50_ms"), large.get("latency_p50_ms")
    metrics: dict[str, float | None] = {
        "run/success": record["success"],
        "run/bytes": (record["artifact"] or record["reference"])["num_bytes"],
        "run/ratio": 1.0 if result is None else result["ratio"],
        "run/retention": 1.0 if result is None else result["retention"],
        "run/retention_low": 1.0 if result is None else result["retention_low"],
        "run/accepted_stages": len(accepted),
        "run/tries": sum(len(stage["tries"]) for stage in record["stages"]),
        "run/time_s": record["seconds"],
        "run/latency_ms": fast,
        "run/latency_ratio": slow / fast if fast and slow else None,
        "run/peak_memory_bytes": small.get("peak_memory_bytes"),
    }
    return _known(metrics)


def comparison_data(record: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table that compares the stages, as numbers and not as text."""
    columns = ["stage", "bytes", "ratio", "bits_per_weight", "retention", "retention_low"]
    columns += ["accepted", "verdict", "tries", "seconds"]
    rows: list[list[Any]] = [
        ["reference", record["reference"]["num_bytes"], 1.0, 32.0, 1.0, 1.0, True, "", 0, 0.0]
    ]
    for stage in record["stages"]:
        numbers = [
            stage[key] for key in ("num_bytes", "ratio", "bits_per_weight", "retention", "retention_low")
        ]
        end = [stage["accepted"], stage["verdict"], len(stage["tries"]), stage["seconds"]]
        rows.append([stage["name"], *numbers, *end])
    return columns, rows


def names_markdown() -> str:
    """``NAMES`` as a table."""
    rows = [[f"`{name}`", when, unit, meaning] for name, (when, unit, meaning) in NAMES.items()]
    table = markdown_rows(["name", "sent", "unit", "meaning"], rows, [False] * 4)
    return table.replace("\\`", "`").replace("\\_", "_").replace("\\*", "*")


def _known(metrics: Mapping[str, float | bool | None]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None}
