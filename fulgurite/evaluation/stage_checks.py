"""Checks of behaviour beside a gate: what a stage must not break, whatever its scores are.

    settings, measures of the reference -> what the reference itself fails: said before a run
    settings, measures of a candidate, those of the reference -> StageCheck for each -> verdict

A check asks for a share by itself (see ``checks``). The reference may miss that share too, and no compression is asked
to repair it: so a candidate is turned down where it falls below what the reference reaches, unless checks are strict.
Above the edge of chaos nothing is lost, but the set has become too easy to show a loss: strict checks turn that down,
others report it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fulgurite.evaluation.alignment import PREFIX, RULES
from fulgurite.evaluation.checks import (
    ALIGNMENT_LEAST,
    ALIGNMENT_LEAST_LAST,
    EDGE_OF_CHAOS,
    Check,
    check_share,
    edge_of_chaos,
)
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.verdict import Severity, Verdict


@dataclass(frozen=True)
class CheckSettings:
    """What a recipe asks of each stage beside its gate; the checks read measures that the gate has anyway.

    Args:
        edge_of_chaos: Measure whose accuracy must stay within ``edge_of_chaos_within``; none by default.
        edge_of_chaos_within: Least and most, fractions.
        alignment: Hold the share of aligned ends of each rule to ``alignment_least``; needs the benchmarks
            ``alignment``.
        alignment_least: Share that is needed after a stage.
        alignment_least_last: Share that is needed after the last stage of the recipe.
        strict: Turn a stage down for every check that it fails, also where the reference fails it.

    Raises:
        ValueError: If nothing is asked for, or bounds are none.
    """

    edge_of_chaos: str | None = None
    edge_of_chaos_within: tuple[float, float] = EDGE_OF_CHAOS
    alignment: bool = False
    alignment_least: float = ALIGNMENT_LEAST
    alignment_least_last: float = ALIGNMENT_LEAST_LAST
    strict: bool = False

    def __post_init__(self) -> None:
        if self.edge_of_chaos is None and not self.alignment:
            raise ValueError("checks must ask for something: edge_of_chaos: <measure>, or alignment: true")
        least, most = self.edge_of_chaos_within
        if not 0 <= least <= most <= 1:
            raise ValueError(
                f"checks.edge_of_chaos_within must be 0 <= least <= most <= 1, got {least} and {most}"
            )
        for name in ("alignment_least", "alignment_least_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"checks.{name} must be in [0, 1], got {getattr(self, name)}")

    def of(self, measures: Sequence[Measure], *, last: bool) -> tuple[Check, ...]:
        """The checks of one network.

        Args:
            measures: Its scores.
            last: Whether it is judged as the last stage of a recipe.

        Raises:
            ValueError: If a measure that is to be checked is not there, or is no accuracy.
        """
        known = {measure.name: measure for measure in measures}
        found = []
        if self.alignment:
            least = self.alignment_least_last if last else self.alignment_least
            names = [PREFIX + rule for rule in RULES]
            missing = [name for name in names if name not in known]
            if missing:
                raise ValueError(
                    f"checks.alignment needs the measures {', '.join(missing)}: expected alignment among "
                    f"model.benchmarks.names, the measures are {', '.join(known)}"
                )
            found += [
                check_share(name, known[name].value, known[name].items.size, least=least) for name in names
            ]
        if self.edge_of_chaos is not None:
            if self.edge_of_chaos not in known:
                raise ValueError(
                    f"checks.edge_of_chaos must be one of the measures {', '.join(known)}, "
                    f"got {self.edge_of_chaos!r}"
                )
            found.append(edge_of_chaos(known[self.edge_of_chaos], *self.edge_of_chaos_within))
        return tuple(found)

    def judge(
        self, reference: Sequence[Measure], candidate: Sequence[Measure], *, last: bool
    ) -> tuple[StageCheck, ...]:
        """The checks of a stage, each beside the reference's own."""
        pairs = zip(self.of(candidate, last=last), self.of(reference, last=last), strict=True)
        return tuple(StageCheck(check, before, self.strict) for check, before in pairs)

    def foretold(self, reference: Sequence[Measure], stages: int) -> list[str]:
        """What is known before the first stage: a sentence for each check that the reference itself fails.

        Args:
            reference: Its scores.
            stages: How many stages the recipe has.
        """
        sentences = []
        last = self.of(reference, last=True)
        first = last if stages == 1 else self.of(reference, last=False)
        for check, ending in zip(first, last, strict=True):
            if check.passed:
                continue
            if self.strict:
                follows = "checks are strict, so a stage has to mend it"
            elif check.state == "above":
                follows = "the set is too easy to show a small loss"
            elif ending.passed:
                follows = "it turns down no stage but the last, which needs less"
            else:
                follows = "it is reported, and turns down no stage"
            sentences.append(f"the reference itself fails {check.sentence}: {follows}")
        return sentences


@dataclass(frozen=True)
class StageCheck:
    """One check of a stage.

    Args:
        check: Of the candidate.
        reference: The same of the network before any compression.
        strict: Whether it counts whatever the reference does.
    """

    check: Check
    reference: Check
    strict: bool = False

    @property
    def rejects(self) -> bool:
        """Whether it turns the stage down."""
        if self.check.passed:
            return False
        return self.strict or (self.check.state != "above" and self.reference.state != "below")

    @property
    def sentence(self) -> str:
        """What was found; where it failed and turns nothing down, why not."""
        if self.check.passed or self.rejects:
            return self.check.sentence
        if self.check.state == "above":
            return f"{self.check.sentence}; nothing is lost"
        assert self.reference.value is not None  # below, so there is a number
        return f"{self.check.sentence}; the reference has {self.reference.value:.3f} itself"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **self.check.to_dict(),
            "reference": self.reference.value,
            "reference_state": self.reference.state,
            "rejects": self.rejects,
            "sentence": self.sentence,
        }


def with_checks(verdict: Verdict, checks: Sequence[StageCheck]) -> Verdict:
    """A gate's verdict with what the checks say.

    One check below is mild, several are severe. Of a stage that is only too good there is nothing to mend: its
    severity is ``"none"``.
    """
    rejecting = [each.check for each in checks if each.rejects]
    if not rejecting:
        return verdict
    reason = "; ".join([verdict.reason, *(check.sentence for check in rejecting)])
    if not verdict.accepted:  # by its scores: what is changed next follows from these
        return replace(verdict, reason=reason)
    lost = sum(check.state != "above" for check in rejecting)
    severity: Severity = "severe" if lost > 1 else "mild" if lost else "none"
    names = tuple(check.name for check in rejecting)
    return replace(verdict, accepted=False, severity=severity, reason=reason, failed_checks=names)
