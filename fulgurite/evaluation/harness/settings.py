"""What a recipe says of the benchmarks that its gate judges by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.evaluation.harness.suite import LanguageSuite


@dataclass(frozen=True)
class BenchmarkSettings:
    """Benchmarks of a language model, asked after each stage.

    Args:
        names: Tasks of ``configs/benchmarks``, such as ``[arc_easy, last_word]``; or ``core``.
        data_dir: Folder of their items; the hub by default.
        text: Files for benchmarks of any text: ``text``, ``last_word``, ``continuation``.
        limit: Items of each at most, evenly spaced; all by default.
        batch_size: Rows of full length at a time.
        allow_code_execution: Run the programs that the network writes for humaneval, each in a sandbox.
        experts: JSON file of experts, their weights and their benchmarks.
    """

    names: Sequence[str] = ()
    data_dir: str | None = None
    text: Sequence[str] = ()
    limit: int | None = None
    batch_size: int = 16
    allow_code_execution: bool = False
    experts: str | None = None

    def load(self) -> LanguageSuite:
        """Read tasks and items; raises as ``LanguageSuite.load``."""
        from fulgurite.evaluation.harness.suite import LanguageSuite

        return LanguageSuite.load(
            self.names,
            data_dir=self.data_dir,
            text=self.text,
            limit=self.limit,
            allow_code_execution=self.allow_code_execution,
            experts=self.experts,
        )
