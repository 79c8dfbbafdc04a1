"""From a rejection to the next try: what failed, how badly, and what to change.

- mild, that is close by or only not certain: the codec's small step, such as half the group, twice the codebook.
- severe, that is twice the allowed loss, a measure under the floor, or a score that is no number: the codec's
  large step, twice the refinement, and 8 bits for the few weights whose error stands out.
- undecided, no measure being informative, or good but no smaller: nothing, as more bits mend neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.stages.stage import Stage
from fulgurite.evaluation.verdict import Verdict

_PROTECTED_SHARE = 0.1  # of the coded weights: more would cost more than the codec's next step


def recommend(
    stage: Stage, verdict: Verdict, layers: Sequence[Mapping[str, Any]]
) -> tuple[Stage, list[str]] | None:
    """The changed stage to try next, and the changes in words.

    Args:
        stage: The stage as it was rejected.
        verdict: Why.
        layers: ``weight`` and ``nmse`` of each coded weight of that try.

    Returns:
        ``None`` where there is nothing to change, or no use in it.
    """
    if verdict.severity == "none":  # undecided, or good enough but no smaller: more bits mend neither
        return None
    severe = verdict.severity == "severe"
    return stage.relaxed(severe, worst_weights(layers) if severe else ())


def worst_weights(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The few weights that stand out by their relative error, the worst first."""
    ordered = sorted(layers, key=lambda layer: -layer["nmse"])
    few = ordered[: max(1, int(_PROTECTED_SHARE * len(ordered)))]
    typical = ordered[len(ordered) // 2]["nmse"] if ordered else 0.0
    return [layer["weight"] for layer in few if layer["nmse"] > 1.5 * typical]
