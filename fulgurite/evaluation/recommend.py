"""What a failed gate looks like: the pattern, how bad it is, and which weights suffered the most.

    verdict -> pattern, severity          relative error per weight -> groups -> weakest

Which settings to change is the business of who knows the stage; here is only what the numbers say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fulgurite.evaluation.verdict import Severity, Verdict

Pattern = Literal["none", "core", "integration", "diverged", "undecided"]

STANDS_OUT = 1.25
"""A group is weak where its mean error is this many times that of all weights."""

_MOST = 2  # groups named at most: a retry that favours everything favours nothing

# in this order: "post_attention_layernorm" is a norm, "attention.output.dense" is attention
_KINDS = (
    ("norm", r"norm|(^|\.)ln_|\.ln\d"),
    (
        "embedding",
        r"embed_tokens|(^|\.)w[tp]e\.|embed_(in|out)|lm_head|(token|word|class|patch|position(al)?)_embed"
        r"|token_type_embed|visual\.conv1|predictions\.decoder",
    ),
    ("attention", r"attn|attention|in_proj|(^|\.)[qkvo]_proj"),
    ("mlp", r"mlp|c_fc|(gate|up|down)_proj|intermediate\.dense|output\.dense|(^|\.)fc[12]\.|feed_forward"),
)
_LAYER = re.compile(r"^(.*?)(?:^|\.)(?:layers?|h|resblocks|blocks?)\.(\d+)\.")


@dataclass(frozen=True)
class Diagnosis:
    """What a verdict and the errors of the weights say together.

    Args:
        pattern: ``"core"``: the stage lost too much, on average or on one measure; ``"integration"``: the
            stage is good enough by itself, but all stages together are not; ``"diverged"``; ``"undecided"``:
            no measure can tell; ``"none"``: accepted.
        severity: As in the verdict.
        weakest: Groups with the largest error, at most two, worst first: ``"attention"``, ``"mlp"``,
            ``"embedding"``, ``"norm"``, ``"other"``, ``"first layer"``, ``"last layer"``. Empty where there
            is nothing to mend or no error is known.
        sentence: The same for a person.
    """

    pattern: Pattern
    severity: Severity
    weakest: tuple[str, ...]
    sentence: str


def diagnose(verdict: Verdict, errors: Mapping[str, float]) -> Diagnosis:
    """Read a verdict in the light of each weight's relative error.

    Args:
        verdict: The outcome of a gate.
        errors: Relative error by parameter name, such as the normalised squared error weighted by the layer's
            input statistics, ``|X (W - W_hat)|^2 / |X W|^2``: comparable between weights of different size.

    Returns:
        The diagnosis; weights whose error is not finite count as lost and lead.
    """
    pattern = _pattern(verdict)
    if pattern in ("none", "undecided"):
        return Diagnosis(pattern, verdict.severity, (), verdict.reason)
    means = group_errors(errors)
    weakest = _weakest(means, errors)
    what = {
        "core": "the stage loses too much",
        "integration": "the stage holds by itself, but the stages together lose too much",
        "diverged": "the network diverged",
    }[pattern]
    sentence = what if pattern == "diverged" else f"{what} ({verdict.severity})"
    if weakest:
        worst = ", ".join(f"{group} {means[group]:.3g}" for group in weakest)
        sentence += f"; largest relative error: {worst}, {_mean(list(errors.values())):.3g} over all weights"
    return Diagnosis(pattern, verdict.severity, weakest, sentence)


def weight_group(name: str) -> str:
    """Kind of a weight by its name in Llama, GPT-2, BERT, BLIP, transformers CLIP or open_clip networks.

    Example:
        >>> weight_group("model.layers.0.self_attn.q_proj.weight"), weight_group("lm_head.weight")
        ('attention', 'embedding')
    """
    lowered = name.lower()
    for kind, pattern in _KINDS:
        if re.search(pattern, lowered):
            return kind
    return "other"


def group_errors(errors: Mapping[str, float]) -> dict[str, float]:
    """Mean relative error of each group of weights.

    First and last layer are groups beside the kinds; they are told apart from three layers on, within each
    tower of a network that has several.
    """
    groups: dict[str, list[float]] = {}
    for name, error in errors.items():
        groups.setdefault(weight_group(name), []).append(error)
    places = {name: (match[1], int(match[2])) for name in errors if (match := _LAYER.search(name))}
    last: dict[str, int] = {}
    for tower, index in places.values():
        last[tower] = max(index, last.get(tower, 0))
    for name, (tower, index) in places.items():
        if last[tower] >= 2 and index in (0, last[tower]):
            groups.setdefault("first layer" if index == 0 else "last layer", []).append(errors[name])
    return {group: _mean(values) for group, values in groups.items()}


def _pattern(verdict: Verdict) -> Pattern:
    if verdict.accepted:
        return "none"
    if verdict.diverged:
        return "diverged"
    if verdict.undecided:
        return "undecided"
    stage_holds = verdict.retention_low is not None and verdict.retention_low >= verdict.needed
    whole_holds = verdict.cumulative_low is not None and verdict.cumulative_low >= verdict.cumulative_needed
    return "integration" if stage_holds and not whole_holds else "core"


def _weakest(means: Mapping[str, float], errors: Mapping[str, float]) -> tuple[str, ...]:
    """Groups that stand out, worst first; the worst one where none does."""
    ranked = sorted(
        means, key=lambda group: (-means[group], group)
    )  # by name where equal: same run, same words
    limit = STANDS_OUT * _mean(list(errors.values()))
    standing_out = [group for group in ranked if means[group] >= limit]
    return tuple(standing_out[:_MOST] or ranked[:1])


def _mean(values: list[float]) -> float:
    """Mean, infinite where a value is not finite."""
    if not values or not all(math.isfinite(value) for value in values):
        return math.inf if values else 0.0
    return math.fsum(values) / len(values)
