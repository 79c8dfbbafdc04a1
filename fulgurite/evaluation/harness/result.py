"""What benchmarks found of one network.

scores by benchmark -> measures for a gate, experts, checks, files
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fulgurite.evaluation.alignment import AlignmentReport
from fulgurite.evaluation.checks import ALIGNMENT_LEAST, EDGE_OF_CHAOS, Check, edge_of_chaos
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.harness.measures import TaskScore
from fulgurite.evaluation.measure import Measure


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found of one network.

    Args:
        scores: One a benchmark, in the order in which they were named.
        seconds: Time of it all.
        named: Benchmarks that were asked for by name, and not by an expert alone.
        experts: Measures of the experts and of their mixture, where there are any.
    """

    scores: tuple[TaskScore, ...]
    seconds: float
    named: tuple[str, ...] = ()
    experts: tuple[Measure, ...] = ()

    @property
    def evaluation(self) -> Evaluation:
        """The measures for a gate, and every other metric as a fact."""
        facts = {
            f"{score.name}/{metric}": value for score in self.scores for metric, value in score.others.items()
        }
        named = [score.measure for score in self.scores if score.name in self.named]
        return Evaluation([*named, *self.experts], facts)

    @property
    def alignment(self) -> AlignmentReport | None:
        """What the network prefers by each rule; ``None`` where no pairs were asked."""
        return AlignmentReport.of(self.scores)

    def checks(
        self,
        *,
        least: float = ALIGNMENT_LEAST,
        chaos: str | None = None,
        bounds: tuple[float, float] = EDGE_OF_CHAOS,
    ) -> tuple[Check, ...]:
        """Checks of the network by itself.

        Args:
            least: Share of aligned ends that each rule needs.
            chaos: Benchmark whose accuracy must stay within ``bounds``.
            bounds: Of the edge of chaos.

        Raises:
            ValueError: If the benchmark was not asked, or has no accuracy.
        """
        found = () if self.alignment is None else self.alignment.checks(least)
        if chaos is None:
            return found
        asked = {score.name: score.measure for score in self.scores}
        if chaos not in asked:
            raise ValueError(
                f"edge of chaos: expected one of the benchmarks {', '.join(asked)}, got {chaos!r}"
            )
        return (*found, edge_of_chaos(asked[chaos], *bounds))

    def save(self, folder: str | Path) -> None:
        """Write ``evaluation.npz`` (see ``Evaluation.load``), and ``items.jsonl`` with a line an item."""
        from fulgurite.artifact.files import write_file

        self.evaluation.save(Path(folder) / "evaluation.npz")
        lines = [json.dumps(item, ensure_ascii=False) for score in self.scores for item in score.items]
        write_file(Path(folder) / "items.jsonl", ("\n".join(lines) + "\n").encode())
