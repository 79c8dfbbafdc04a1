"""``fulgurite evaluate --benchmarks``: a network's answers to benchmarks, as a table and item by item."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.cli.main import UsageError
from fulgurite.evaluation.checks import Check
from fulgurite.evaluation.harness import BenchmarkDataError, LanguageSuite, SuiteResult, TaskScore
from fulgurite.evaluation.statistics import informative, retention_interval
from fulgurite.reporting.units import format_retained, format_score


@dataclass(frozen=True)
class _Printed:
    """One line of the table, each cell as it is printed."""

    benchmark: str
    items: str
    metric: str
    score: str
    chance: str
    reference: str = ""
    retained: str = ""


_HEAD = _Printed("benchmark", "items", "metric", "score", "chance", "reference", "retained")


def evaluate_benchmarks(
    network: str,
    benchmarks: Sequence[str],
    *,
    reference: str | None = None,
    bench_data: str | None = None,
    text: Sequence[str] = (),
    limit: int | None = None,
    batch_size: int = 16,
    allow_code_execution: bool = False,
    experts: str | None = None,
    edge_of_chaos: str | None = None,
    output_dir: str | None = None,
    packed: bool = False,
    json_output: bool = False,
) -> None:
    """Print what a network scores, and write it where asked; see ``fulgurite.cli.evaluate.evaluate``."""
    try:
        suite = LanguageSuite.load(
            benchmarks,
            data_dir=bench_data,
            text=text,
            limit=limit,
            allow_code_execution=allow_code_execution,
            experts=experts,
        )
        if edge_of_chaos is not None and edge_of_chaos not in suite.tasks:
            raise ValueError(
                f"--edge_of_chaos must be one of {', '.join(suite.tasks)}, got {edge_of_chaos!r}"
            )
    except BenchmarkDataError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(
            f"benchmarks need the extra 'benchmarks' ({error.name} is missing): pip install 'fulgurite[benchmarks]'"
        ) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    result = _result(suite, network, batch_size, packed)
    other = None if reference is None else _result(suite, reference, batch_size, False)
    if output_dir is not None:
        result.save(output_dir)
    facts = _facts(network, result, reference, other)
    checks = result.checks(chaos=edge_of_chaos)
    if checks:
        facts["checks"] = [check.to_dict() for check in checks]
    if result.alignment is not None:
        facts["alignment"] = result.alignment.to_dict()
    print(
        json.dumps(facts, indent=1)
        if json_output
        else "\n".join([*_lines(facts, result, other), *_judged(result, checks)])
    )


def _result(suite: LanguageSuite, source: str, batch_size: int, packed: bool) -> SuiteResult:
    from fulgurite.artifact.manifest import read_manifest
    from fulgurite.cli.evaluate import is_artifact, load_any
    from fulgurite.models import load_tokenizer

    if is_artifact(source):
        read_manifest(source).verify()
    network, tokenizer = load_any(source, packed), load_tokenizer(source)
    shown = sys.stderr if sys.stderr.isatty() else None  # the suite keeps the harness's own bars off

    def progress(what: str, done: int, count: int) -> None:
        if shown is not None:
            end = "\r" if done < count else "\n"
            print(f"  {what:<8} {done:,} of {count:,}", end=end, file=shown, flush=True)

    return suite.evaluate(network, tokenizer, batch_size=batch_size, progress=progress)


def _facts(
    network: str, result: SuiteResult, reference: str | None, other: SuiteResult | None
) -> dict[str, Any]:
    """What is printed as JSON."""
    scores: dict[str, Any] = {}
    for score in result.scores:
        scores[score.name] = {
            "metric": score.metric,
            "items": score.measure.items.size,
            "value": _finite(score.measure.value),
            "standard_error": _finite(score.standard_error),
            "chance": score.measure.chance,
            "others": {name: _finite(value) for name, value in score.others.items()},
        }
    facts: dict[str, Any] = {"network": network, "seconds": result.seconds, "scores": scores}
    if result.experts:
        facts["experts"] = {
            measure.name: {"value": _finite(measure.value), "chance": measure.chance}
            for measure in result.experts
        }
    if other is not None:
        facts["reference"] = reference
        for ours, theirs in zip(result.scores, other.scores, strict=True):
            scores[ours.name] |= {"reference": _finite(theirs.measure.value)} | _retained(theirs, ours)
    return facts


def _retained(reference: TaskScore, score: TaskScore) -> dict[str, Any]:
    """What is left of the reference's advantage over chance, where it surely has one."""
    if not informative(reference.measure):
        return {"informative": False}
    interval = retention_interval(reference.measure, score.measure)
    return {
        "informative": True,
        "retention": _finite(interval.point),
        "low": _finite(interval.low),
        "high": _finite(interval.high),
    }


def _lines(facts: dict[str, Any], result: SuiteResult, other: SuiteResult | None) -> list[str]:
    """The table."""
    count = sum(score.measure.items.size for score in result.scores)
    rows = [_HEAD]
    for score in result.scores:
        unit, found = score.measure.unit, facts["scores"][score.name]
        reference = retained = ""
        if other is not None:
            reference = format_score(found["reference"], unit)
            retained = "reference at chance"
            if found["informative"]:
                retained = format_retained(found["retention"], found["low"], found["high"])
        rows.append(
            _Printed(
                score.name,
                f"{score.measure.items.size:,}",
                score.metric,
                format_score(found["value"], unit) + _error(score),
                format_score(score.measure.chance, unit),
                reference,
                retained,
            )
        )
    widths = [max(len(cell) for cell in column) for column in zip(*map(_cells, rows), strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(_cells(row), widths, strict=True)).rstrip()
        for row in rows
    ]
    if other is None:
        table[0] = table[0].split("reference")[0].rstrip()
    for measure in result.experts:
        value = format_score(facts["experts"][measure.name]["value"], measure.unit)
        table.append(
            f"{measure.name:<{widths[0]}}  {value}   chance {format_score(measure.chance, measure.unit)}"
        )
    minutes, seconds = divmod(round(result.seconds), 60)
    return [f"{facts['network']}   {count:,} items in {minutes}:{seconds:02d}", *table]


def _judged(result: SuiteResult, checks: Sequence[Check]) -> list[str]:
    """Checks, and what the preferences of a network have to do with length."""
    lines = [check.sentence for check in checks]
    if result.alignment is not None:
        lines += [
            f"{rule.rule}: {rule.where_longer:.2f} where the aligned end is longer, {rule.where_shorter:.2f} where "
            f"shorter, {rule.length_controlled:.2f} for both alike; the shorter end wins {rule.shorter_wins:.2f}; "
            f"per character {rule.per_character:.2f}, the same end in {rule.two_ways_agree:.2f}"
            for rule in result.alignment.rules
        ]
        lines.append(
            f"rules differ by {result.alignment.spread:.2f}; if all had one share, by as much with probability "
            f"{result.alignment.agreement_p:.2f}"
        )
    return lines


def _cells(row: _Printed) -> tuple[str, ...]:
    return (row.benchmark, row.items, row.metric, row.score, row.chance, row.reference, row.retained)


def _error(score: TaskScore) -> str:
    scale = 100 if score.measure.unit == "%" else 1
    return "" if math.isnan(score.standard_error) else f" ± {scale * score.standard_error:.2g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
