"""Causal language models, judged by perplexity."""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from peers.network import CALIBRATION, Network
from torch import Tensor, nn
from torch.nn import functional


class TextNetwork(Network):
    """A causal language model: perplexity over the head of a validation text."""

    auto_class = "AutoModelForCausalLM"
    metric = "perplexity"
    higher_is_better = False
    how = (
        "perplexity per token over the first 420,000 characters of the validation text, in windows of 256 tokens "
        "that do not overlap: each token is predicted once, from those before it in its window"
    )
    characters: ClassVar[int] = 420_000
    window: ClassVar[int] = 256
    texts: ClassVar[Mapping[str, tuple[str, str]]] = {
        "books6m": ("text/gutenberg/train-00.txt.xz", "text/gutenberg/valid.txt.xz"),
        "stories260k": ("text/tinystories/train_sample.txt", "text/tinystories/valid_sample.txt"),
    }

    def build(self, source: Path, dtype: torch.dtype) -> nn.Module:
        """``AutoModelForCausalLM`` of the folder."""
        from transformers import AutoModelForCausalLM

        network: nn.Module = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        return network.eval()

    def tokens(self, source: Path, data: Path, split: int) -> Tensor:
        """Token ids of the first characters of the training (0) or validation (1) text, ``[n]``."""
        from transformers import AutoTokenizer

        path = data / self.texts[self.name][split]
        data_bytes = path.read_bytes()
        text = (lzma.decompress(data_bytes) if path.suffix == ".xz" else data_bytes).decode()
        tokenizer = AutoTokenizer.from_pretrained(source)
        # longer than the context: it is cut into windows below
        found = tokenizer(text[: self.characters], add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(found)

    def calibration(self, source: Path, data: Path) -> list[dict[str, Tensor]]:
        """Windows of the training text, one after the other."""
        ids = self.tokens(source, data, 0)[: CALIBRATION * self.window].view(-1, self.window)
        return [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in ids]

    def score(self, network: nn.Module, source: Path, data: Path) -> float:
        """Perplexity per token."""
        ids = self.tokens(source, data, 1)
        count = (len(ids) - 1) // self.window
        windows = ids[: count * self.window].view(count, self.window)
        targets = ids[1 : count * self.window + 1].view(count, self.window)
        nats = 0.0
        with torch.inference_mode():
            for part, wanted in zip(windows.split(16), targets.split(16), strict=True):
                logits = network(input_ids=part, use_cache=False).logits.float()
                loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
                nats += float(loss.double())
        return math.exp(min(nats / (count * self.window), 700))  # what has diverged still has a number
