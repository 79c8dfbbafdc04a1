"""Sentence encoders, judged by how they order pairs of sentences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.network import CALIBRATION, Network
from torch import Tensor, nn
from torch.nn import functional


class SentenceNetwork(Network):
    """A sentence encoder: rank correlation of cosines with human scores."""

    auto_class = "AutoModel"
    metric = "Spearman"
    higher_is_better = True
    how = (
        "Spearman's rank correlation between the cosine of two mean-pooled embeddings and the human score, over "
        "the sentence pairs of the STS benchmark's caption genres, test split"
    )

    def build(self, source: Path, dtype: torch.dtype) -> nn.Module:
        """``AutoModel`` of the folder."""
        from transformers import AutoModel

        network: nn.Module = AutoModel.from_pretrained(source, dtype=dtype)
        return network.eval()

    def batches(self, source: Path, sentences: list[str], size: int) -> list[dict[str, Tensor]]:
        """Tokenised sentences, ``size`` a batch, padded to the longest of each."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source)
        found = []
        for start in range(0, len(sentences), size):
            part = tokenizer(
                sentences[start : start + size], padding=True, truncation=True, return_tensors="pt"
            )
            found.append({key: part[key] for key in ("input_ids", "attention_mask")})
        return found

    def calibration(self, source: Path, data: Path) -> list[dict[str, Tensor]]:
        """First sentences of the training pairs."""
        pairs = _pairs(data / "bench/stsb/train_captions_1000.jsonl")[:CALIBRATION]
        return self.batches(source, [pair["sentence1"] for pair in pairs], 1)

    def score(self, network: nn.Module, source: Path, data: Path) -> float:
        """Spearman's correlation."""
        pairs = _pairs(data / "bench/stsb/test_captions_375.jsonl")
        sides = []
        for key in ("sentence1", "sentence2"):
            rows = []
            for batch in self.batches(source, [pair[key] for pair in pairs], 25):
                with torch.inference_mode():
                    hidden = network(**batch).last_hidden_state.float()
                mask = batch["attention_mask"][..., None].float()
                rows.append(functional.normalize((hidden * mask).sum(1) / mask.sum(1)))
            sides.append(torch.cat(rows))
        cosines = (sides[0] * sides[1]).sum(1).double().numpy()
        return spearman(cosines, np.array([pair["score"] for pair in pairs]))


def spearman(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    NaN where one side is constant or not a number: it has no order.
    """
    ranks = []
    for values in (first, second):
        if not np.isfinite(values).all():
            return math.nan
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((count.cumsum() - (count - 1) / 2)[place])
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(*ranks)[0, 1])


def _pairs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
