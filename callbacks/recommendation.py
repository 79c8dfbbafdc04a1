"""From a rejection to the next try: what failed, how badly, where, and what to change.

    verdict, errors of weights -> pattern, severity, a group that stands out -> rule -> changed keys of the recipe

``RULES`` is the whole of it; ``docs/gates.md`` shows it as a table. Where nothing can be told (no measure is
informative) or a stage is good but no smaller, there is no rule: more bits mend neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from callbacks.stages.advice import Advice
from callbacks.stages.stage import PROTECTED, Stage, difference
from fulgurite.codecs import Codec
from fulgurite.evaluation.recommend import Pattern, diagnose, outstanding
from fulgurite.evaluation.verdict import Severity, Verdict
from fulgurite.reporting.table import markdown_rows

_PROTECTED_SHARE = 0.1  # of the coded weights: more would cost more than the codec's next step


@dataclass(frozen=True)
class Rule:
    """What one kind of rejection changes.

    Args:
        step: Of the codec.
        focus: What a group of weights whose error stands out does to it: it takes the large step ``instead`` of all
            weights taking theirs, or takes a large step ``more``; ``None`` where it is not looked for.
        longer: Refine twice as long.
        protect: 8 bits for the few weights whose own error stands out.
    """

    step: Literal["small", "large"]
    focus: Literal["instead", "more"] | None = None
    longer: bool = False
    protect: bool = False


RULES: Mapping[tuple[Pattern, Severity], Rule] = {
    ("core", "mild"): Rule("small", focus="instead"),
    ("core", "severe"): Rule("large", focus="more", longer=True, protect=True),
    ("expert", "mild"): Rule("small", focus="instead", longer=True),
    ("expert", "severe"): Rule("large", focus="more", longer=True, protect=True),
    ("integration", "mild"): Rule("small"),
    ("integration", "severe"): Rule("large", longer=True),
    ("check", "mild"): Rule("small", longer=True),
    ("check", "severe"): Rule("large", longer=True),
    ("diverged", "severe"): Rule("large", longer=True, protect=True),
}

_PATTERNS = {
    "core": "the mean loses too much",
    "expert": "the mean holds, single benchmarks do not",
    "integration": "the stage holds, all stages together do not",
    "check": "scores hold, a check of behaviour does not",
    "diverged": "a score is no number",
}


def recommend(
    stage: Stage,
    verdict: Verdict,
    layers: Sequence[Mapping[str, Any]],
) -> tuple[Stage, list[str]] | None:
    """The changed stage to try next, and the changes in words.

    Args:
        stage: The stage as it was rejected.
        verdict: Why.
        layers: ``weight``, ``nmse`` and ``weighted_error`` of each coded weight of that try.

    Returns:
        ``None`` where there is nothing to change, or no use in it.
    """
    errors = errors_of(layers)
    rule = RULES.get((diagnose(verdict, errors).pattern, verdict.severity))
    if rule is None:
        return None
    group = outstanding(errors) if rule.focus is not None else None
    name, focus = group if group is not None else ("", [])
    return stage.relaxed(
        Advice(
            severe=rule.step == "large",
            everywhere=group is None or rule.focus == "more",
            focus=tuple(focus),
            focus_name=name,
            protect=tuple(worst_weights(layers)) if rule.protect else (),
            longer=rule.longer,
        )
    )


def errors_of(layers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Relative error by weight: in the stage's metric, which says what an error costs, where all have it."""
    key = "nmse" if any(layer.get("weighted_error") is None for layer in layers) else "weighted_error"
    return {layer["weight"]: layer[key] for layer in layers if layer[key] is not None}


def worst_weights(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The few weights that stand out by their relative error, the worst first."""
    ordered = sorted(layers, key=lambda layer: -layer["nmse"])
    few = ordered[: max(1, int(_PROTECTED_SHARE * len(ordered)))]
    typical = ordered[len(ordered) // 2]["nmse"] if ordered else 0.0
    return [layer["weight"] for layer in few if layer["nmse"] > 1.5 * typical]


def rules_markdown() -> str:
    """``RULES`` as a table."""
    rows = []
    for (pattern, severity), rule in RULES.items():
        step = f"the codec's {rule.step} step"
        changes = [step]
        if rule.longer:
            changes.append("refine.steps twice, where the stage refines")
        if rule.protect:
            changes.append(
                f"{PROTECTED.bits} bits for the weights whose own error stands out, a tenth at most"
            )
        where = {
            "instead": "that group alone takes the large step",
            "more": "that group takes the large step once more",
            None: "as if it did not",
        }[rule.focus]
        rows.append([pattern, _PATTERNS[pattern], severity, "; ".join(changes), where])
    header = ["pattern", "what it means", "severity", "the next try has", "where a group stands out"]
    return markdown_rows(header, rows, [False] * len(header))


def steps_markdown(codecs: Sequence[Codec]) -> str:
    """What a small and a large step are, from some settings of each codec."""
    rows = []
    for codec in codecs:
        steps = [codec.relaxed(severe) for severe in (False, True)]
        told = ["nothing" if step is None else "; ".join(difference(codec, step)) for step in steps]
        rows.append([codec.name, *told])
    return markdown_rows(["codec", "small step", "large step"], rows, [False] * 3)
