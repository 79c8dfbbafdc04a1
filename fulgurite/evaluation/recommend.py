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

Pattern = Literal["none", "core", "expert", "integration", "check", "diverged", "undecided"]

STANDS_OUT = 1.25
"""A group is weak where its mean error is this many times that of all weights."""

STANDS_ALONE = 2.0
"""A group is to blame by itself where its mean error is this many times that of all other weights."""

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
        pattern: ``"core"``: the stage lost too much on average; ``"expert"``: on average it is good enough, but not on
            each benchmark; ``"integration"``: the stage is good enough by itself, but all stages together are not;
            ``"check"``: scores are good enough, but a check of behaviour failed; ``"diverged"``; ``"undecided"``:
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
        "expert": "the stage holds on average, but loses too much on single benchmarks",
        "check": f"scores hold, but not the checks: {', '.join(verdict.failed_checks)}",
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
    members = _members(errors)
    return {
        group: _mean([errors[name] for name in names])
        for group, names in members.items()
        if not group.endswith("tower")
    }


def outstanding(errors: Mapping[str, float]) -> tuple[str, list[str]] | None:
    """The one group of weights whose error stands out from all others, and its weights.

    Args:
        errors: Relative error by parameter name.

    Returns:
        A tower of a network with two, a kind of weights, the first or the last layer; the smallest where several are
        the same trouble. ``None`` where none stands out, or it is more than half of the weights.
    """
    found = []
    for group, names in _members(errors).items():
        others = [errors[name] for name in errors if name not in names]
        inside = _mean([errors[name] for name in names])
        if len(names) <= len(others) and inside >= STANDS_ALONE * _mean(others) and inside > 0:
            found.append((inside, -len(names), group, names))
    return max(found)[2:] if found else None


def tower_of(name: str) -> str | None:
    """Which tower of an image-text network a weight is in, by its name; ``None`` for what is in neither.

    Example:
        >>> (
        ...     tower_of("visual.transformer.resblocks.0.attn.in_proj_weight"),
        ...     tower_of("text_model.embeddings.weight"),
        ... )
        ('vision tower', 'text tower')
    """
    if re.match(r"(model\.)?(visual|vision)", name):
        return "vision tower"
    return (
        "text tower" if re.match(r"(model\.)?(text|transformer\.|token_embedding|ln_final)", name) else None
    )


def _members(errors: Mapping[str, float]) -> dict[str, list[str]]:
    """Weights of each group of ``group_errors``, and of towers where there are two."""
    groups: dict[str, list[str]] = {}
    for name in errors:
        groups.setdefault(weight_group(name), []).append(name)
    places = {name: (match[1], int(match[2])) for name in errors if (match := _LAYER.search(name))}
    last: dict[str, int] = {}
    for tower, index in places.values():
        last[tower] = max(index, last.get(tower, 0))
    for name, (tower, index) in places.items():
        if last[tower] >= 2 and index in (0, last[tower]):
            groups.setdefault("first layer" if index == 0 else "last layer", []).append(name)
    towers: dict[str, list[str]] = {}
    for name in errors:
        if (side := tower_of(name)) is not None:
            towers.setdefault(side, []).append(name)
    return groups | (towers if len(towers) == 2 else {})


def _pattern(verdict: Verdict) -> Pattern:
    if verdict.accepted:
        return "none"
    if verdict.failed_checks:
        return "check"
    if verdict.diverged:
        return "diverged"
    if verdict.undecided:
        return "undecided"
    stage_holds = verdict.retention_low is not None and verdict.retention_low >= verdict.needed
    whole_holds = verdict.cumulative_low is not None and verdict.cumulative_low >= verdict.cumulative_needed
    if stage_holds:
        return "expert" if whole_holds else "integration"
    return "core"


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
