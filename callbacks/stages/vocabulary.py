"""The stage that keeps only the tokens that matter for the text at hand: see ``fulgurite.vocabulary``.

train windows -> how often each token occurs -> tokens to keep -> tokenizer, embedding and head with those alone
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import override

from callbacks.stages.structure import StructuralStage, Work
from fulgurite.vocabulary import select_tokens, shrink_embeddings, shrink_tokenizer, token_scores_by_loss

_SCORED_WINDOWS = 256


class VocabularyStage(StructuralStage):
    """Keep some of a network's tokens; every text can still be written with them.

    A language model must be measured by spans of text (``LanguageModel`` ``measure_by: spans``): its tokens are
    others afterwards.

    Args:
        size: Tokens to keep.
        by: ``frequency``: what texts grow by; ``loss``: what they cost the network more, which takes some passes.
        windows: Train windows or texts to count, evenly spaced.
        min_count: Give up characters that these have less often, where unknown text has a token of its own.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a number is out of range.
    """

    kind: ClassVar[str] = "vocabulary"

    def __init__(
        self,
        size: int = 4096,
        by: Literal["frequency", "loss"] = "frequency",
        windows: int = 4096,
        min_count: int = 0,
        min_retention: float | None = None,
    ) -> None:
        super().__init__(min_retention)
        self._check_least(size=(size, 1), windows=(windows, 1), min_count=(min_count, 0))
        self.size = size
        self.by = by
        self.windows = windows
        self.min_count = min_count

    @override
    def settings(self) -> dict[str, Any]:
        names = ("size", "by", "windows", "min_count")
        return {"codec": {"name": self.kind}, **{name: getattr(self, name) for name in names}}

    @override
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        module: Any = work.subject
        tokenizer = module.tokenizer
        if tokenizer is None:
            raise ValueError(
                "a vocabulary stage needs the network's tokenizer; there is none beside its weights"
            )
        rows = module.refinement_windows(work.datamodule, self.windows)
        counts = rows.flatten().bincount(minlength=len(tokenizer))
        if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
            counts[tokenizer.pad_token_id] = 0
        scores = None
        if self.by == "loss":
            scored = rows[torch.linspace(0, len(rows) - 1, min(_SCORED_WINDOWS, len(rows))).long()]

            def advance(done: int, total: int) -> None:
                work.progress("scores", done, total, None)
                work.check()

            scores = token_scores_by_loss(module.network, tokenizer, scored, counts, progress=advance)
        kept = select_tokens(tokenizer, self.size, counts, scores=scores, min_count=self.min_count)
        smaller, old_ids = shrink_tokenizer(tokenizer, kept)
        network = deepcopy(module.network).cpu()
        shrink_embeddings(network, old_ids)
        module.save_as(target, network, smaller)
        return {
            "kind": self.kind,
            "tokens_before": len(tokenizer),
            "tokens": len(smaller),
            "share_of_text": float(counts[old_ids].sum()) / max(1, int(counts.sum())),
        }
