"""Whether a network has lost anything at all on one measure: an exact test, or the paired bootstrap.

    items are right or wrong -> items lost b, items gained c -> McNemar: Binomial(b + c, 1/2) at b or more -> p
    any other items          -> draws of n items -> share of draws without a loss                         -> p

Reference: McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions", 1947,
https://doi.org/10.1007/BF02295996; one-sided and exact, as only losses are looked for and b + c may be small.
Differs from it by the mid-p value, half of the probability of the very outcome: the exact test rejects far less often
than it says (Fagerland, Lydersen and Laake, 2013, https://doi.org/10.1186/1471-2288-13-91).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fulgurite.evaluation.measure import Measure, check_paired, is_binary
from fulgurite.evaluation.statistics import Floats, gap_draws

TestKind = Literal["mcnemar", "bootstrap"]


@dataclass(frozen=True)
class LossTest:
    """How surely something was lost.

    Args:
        kind: ``"mcnemar"`` where each item is right or wrong, else ``"bootstrap"``.
        p: Probability of as large a loss if there were none, one-sided.
        lost: Items that were right and are wrong now; ``None`` for the bootstrap.
        gained: The other way round.
    """

    kind: TestKind
    p: float
    lost: int | None = None
    gained: int | None = None


def mcnemar(lost: int, gained: int) -> float:
    """One-sided mid-p value of ``lost`` against ``gained`` discordant items.

    Raises:
        ValueError: If a count is negative.

    Example:
        >>> round(mcnemar(8, 1), 4)  # 10 / 512 for 8 or more of 9, less half of the 9 / 512 for 8
        0.0107
    """
    if min(lost, gained) < 0:
        raise ValueError(f"counts must be at least 0, got lost={lost} and gained={gained}")
    n = lost + gained
    if n == 0:
        return 1.0
    each = [math.exp(_log_choose(n, k) - n * math.log(2)) for k in range(lost, n + 1)]
    return min(1.0, math.fsum(each) - 0.5 * each[0])


def loss_test(
    reference: Measure, candidate: Measure, resamples: int = 2000, seed: int = 0, draws: Floats | None = None
) -> LossTest:
    """Test one candidate against the reference on the same items.

    Args:
        reference: Measure of the reference.
        candidate: Of the network in question, finite.
        resamples: Draws of the bootstrap.
        seed: Of the draws.
        draws: Losses of bootstrap draws, ``[r]``, where they are known already.

    Raises:
        ValueError: If the two are not of the same items.
    """
    check_paired(reference, candidate)
    if is_binary(reference) and is_binary(candidate):
        change = reference.sign * (reference.items - candidate.items)
        lost, gained = int((change > 0).sum()), int((change < 0).sum())
        return LossTest("mcnemar", mcnemar(lost, gained), lost, gained)
    if draws is None:
        draws = gap_draws([(reference, candidate)], resamples, seed)[:, 0]
    # a draw counts itself once more, so that p is never 0 (Davison and Hinkley, 1997, section 4.2.5)
    return LossTest("bootstrap", (int((draws <= 0).sum()) + 1) / (draws.size + 1))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
