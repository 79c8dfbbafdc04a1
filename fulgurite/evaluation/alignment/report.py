"""What a network prefers, rule by rule, and how much of that its choice by length explains.

log-probabilities of each pair -> share of aligned ends preferred          -> Check
-> the same where they are longer, shorter  -> mean of both: length controlled
-> the same per character                   -> agreement of the two ways
shares of the four rules       -> chi-square test of one share for all     -> agreement between rules
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.evaluation.alignment.pairs import PREFIX, RULES, Pair, read_pairs
from fulgurite.evaluation.checks import Check, check_share

if TYPE_CHECKING:
    from fulgurite.evaluation.harness.measures import TaskScore


@dataclass(frozen=True)
class RuleReport:
    """One rule.

    Args:
        rule: Its name.
        pairs: How many were asked.
        share: Of pairs whose aligned end is more probable; NaN where the network diverged.
        per_character: The same for log-probabilities per character.
        where_longer: ``share`` among pairs whose aligned end is the longer one.
        where_shorter: And among those where it is the shorter one.
        shorter_wins: Share of pairs whose shorter end is more probable: 0.5 where length decides nothing.
        two_ways_agree: Share of pairs on which both ways of scoring prefer the same end.
    """

    rule: str
    pairs: int
    share: float
    per_character: float
    where_longer: float
    where_shorter: float
    shorter_wins: float
    two_ways_agree: float

    @property
    def length_controlled(self) -> float:
        """Share where longer and shorter aligned ends count alike; 0.5 for who goes by length alone."""
        return (self.where_longer + self.where_shorter) / 2


@dataclass(frozen=True)
class AlignmentReport:
    """All rules that were asked.

    Args:
        rules: One each.
    """

    rules: tuple[RuleReport, ...]

    @classmethod
    def of(cls, scores: Sequence[TaskScore]) -> AlignmentReport | None:
        """From the scores of ``alignment_<rule>``; ``None`` where none was asked."""
        by_name = {score.name: score for score in scores}
        asked = [rule for rule in RULES if PREFIX + rule in by_name]
        return cls(tuple(_rule(rule, by_name[PREFIX + rule].items) for rule in asked)) if asked else None

    @property
    def spread(self) -> float:
        """Largest share less the smallest."""
        shares = [rule.share for rule in self.rules]
        return max(shares) - min(shares)

    @property
    def agreement_p(self) -> float:
        """Probability of shares as different as these if all rules had one: small where the rules disagree.

        Pearson's chi-square test of homogeneity; 1 where there is nothing to compare.
        """
        from scipy.stats import chi2

        counts = np.array([rule.pairs for rule in self.rules], float)
        kept = np.array([rule.share for rule in self.rules]) * counts
        together = kept.sum() / counts.sum()
        if len(self.rules) < 2 or not 0 < together < 1:
            return math.nan if math.isnan(together) else 1.0
        statistic = ((kept - together * counts) ** 2 / (counts * together * (1 - together))).sum()
        return float(chi2.sf(statistic, len(self.rules) - 1))

    def checks(self, least: float = 0.65) -> tuple[Check, ...]:
        """Whether the share of each rule is enough.

        Args:
            least: Share that is needed: 0.65 after a stage, 0.60 after the last.
        """
        return tuple(
            check_share(PREFIX + rule.rule, rule.share, rule.pairs, least=least) for rule in self.rules
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``None`` for what is not a number."""
        rules = [{**asdict(rule), "length_controlled": rule.length_controlled} for rule in self.rules]
        return {
            "rules": [{name: _plain(value) for name, value in rule.items()} for rule in rules],
            "spread": _plain(self.spread),
            "agreement_p": _plain(self.agreement_p),
        }


def _rule(rule: str, items: Sequence[Mapping[str, Any]]) -> RuleReport:
    known = [pair for pair in read_pairs() if pair.rule == rule]
    chosen = [known[item["item"]] for item in items]
    nats = [
        _by_end(item, number) for item, number in zip(items, (item["item"] for item in items), strict=True)
    ]
    aligned, other = (np.array(values, float) for values in zip(*nats, strict=True))
    lengths, others = (_lengths(chosen, name) for name in ("aligned", "other"))
    prefers, normed = aligned > other, aligned / lengths > other / others
    longer, shorter = lengths > others, lengths < others
    unequal = longer | shorter
    broken = np.isnan(aligned) | np.isnan(other)

    def share(flags: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
        return math.nan if broken.any() or not among.any() else float(flags[among].mean())

    every = np.ones(len(items), bool)
    return RuleReport(
        rule=rule,
        pairs=len(items),
        share=share(prefers, every),
        per_character=share(normed, every),
        where_longer=share(prefers, longer),
        where_shorter=share(prefers, shorter),
        shorter_wins=share(prefers == shorter, unequal),
        two_ways_agree=share(prefers == normed, every),
    )


def _by_end(item: Mapping[str, Any], number: int) -> tuple[float, float]:
    """Log-probabilities of the aligned end and of the other; they stand in turn."""
    first, second = (math.nan if value is None else float(value) for value in item["said"])
    return (first, second) if number % 2 == 0 else (second, first)


def _lengths(chosen: Sequence[Pair], name: str) -> NDArray[np.float64]:
    return np.array([len(getattr(pair, name)) for pair in chosen], float)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
