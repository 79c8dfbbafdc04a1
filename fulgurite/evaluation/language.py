"""How well a causal language model predicts a text.

    windows [n, T + 1] -> logits [b, T, V] -> bits, correct [n] -> bits per byte, next-token accuracy

Bits per byte divides by the bytes of the text, not by its tokens, so that networks with different
vocabularies can be compared: Gao et al., "The Pile: An 800GB Dataset of Diverse Text for Language Modeling",
2020, https://arxiv.org/abs/2101.00027, section 3.1.
Differs from the usual protocol: windows do not overlap, so the first tokens of each have little context. All
networks of a comparison read the same windows.

Chance is a network that knows how often each token occurs and nothing of the context. Against a uniform guess
(``log2 V`` bits a token) a network that lost all but its output bias would seem to retain much.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fulgurite.evaluation.measure import Measure

_NATS_PER_BIT = float(np.log(2))


class LanguageWindows(Protocol):
    """Equal stretches of a text; anything with these two attributes will do."""

    @property
    def input_ids(self) -> Tensor | NDArray[np.integer[Any]]:
        """Tokens, integers ``[n, T + 1]``: the last ``T`` of each row are predicted."""

    @property
    def num_bytes(self) -> Tensor | NDArray[np.integer[Any]]:
        """UTF-8 bytes of the predicted tokens, ``[n]``."""


@dataclass(frozen=True)
class LanguageResult:
    """What one pass over a text found.

    Args:
        measures: ``bits_per_byte`` and ``next_token``, one item a window.
        perplexity: ``2 ** (bits / tokens)``; depends on the tokenizer, unlike bits per byte.
        tokens: Predicted tokens.
        bytes: Bytes of the predicted tokens.
        seconds: Time of the pass.
    """

    measures: tuple[Measure, ...]
    perplexity: float
    tokens: int
    bytes: int
    seconds: float


def evaluate_language(
    network: nn.Module,
    windows: LanguageWindows,
    *,
    unigram: Tensor | None = None,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> LanguageResult:
    """Measure bits per byte and next-token accuracy, window by window.

    The network runs in eval mode without gradients and goes back to the mode it was in. Logits of one batch
    are held at a time; per window the bits are added in float64, so the result depends on ``batch_size`` by
    no more than the network's own rounding.

    Args:
        network: ``network(input_ids=...)`` gives logits ``[b, T, V]`` or an object with ``.logits``.
        windows: The text.
        unigram: Smoothed probability of each token in the *training* text, ``[V]``. Without it the evaluated
            text's own frequencies are taken, each token counted once more than it occurs: a stricter chance.
        batch_size: Windows at a time.
        device: Where the network is; by default that of its first parameter.
        progress: Called with the windows done and the windows in all, after each batch.
        limit: Windows at most, evenly spaced over the text.

    Returns:
        The measures with their per-window items. A network that diverged gives NaN items, not an error.

    Raises:
        ValueError: If the shapes do not fit, a token is outside ``unigram``, or a number is out of range.
    """
    started = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    tokens, num_bytes = _selected(windows, limit)
    if device is None:
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    chance_bits, chance_correct = _chance(tokens[:, 1:], unigram)
    bits, correct = [], []
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(tokens), batch_size):
                batch = tokens[start : start + batch_size].to(device)
                output = network(input_ids=batch[:, :-1])
                logits = output if isinstance(output, Tensor) else output.logits
                if logits.shape[:2] != batch[:, 1:].shape:
                    raise ValueError(
                        f"logits must be {[*batch[:, 1:].shape, 'V']}, one row a token read, "
                        f"got {list(logits.shape)}"
                    )
                for row, targets in zip(logits, batch[:, 1:], strict=True):
                    # float copies of one window at a time: a vocabulary of 150k takes 0.6 MB a token
                    row = row.float()
                    nats = row.logsumexp(-1) - row.gather(-1, targets[:, None])[:, 0]
                    bits.append(nats.cpu().double().sum() / _NATS_PER_BIT)  # some devices have no float64
                    correct.append((row.argmax(-1) == targets).sum().cpu())
                if progress is not None:
                    progress(min(start + batch_size, len(tokens)), len(tokens))
    finally:
        for module, training in modes.items():  # parts may be frozen in eval mode while the rest trains
            module.training = training
    count = np.full(len(tokens), tokens.shape[1] - 1, dtype=np.float64)
    bits_per_byte = Measure("bits_per_byte", _array(bits), num_bytes, chance_bits, False, "bits/byte")
    next_token = Measure("next_token", _array(correct), count, chance_correct, True, "%")
    with np.errstate(over="ignore"):
        perplexity = float(np.exp2(bits_per_byte.items.sum() / count.sum()))
    return LanguageResult(
        measures=(bits_per_byte, next_token),
        perplexity=perplexity,
        tokens=int(count.sum()),
        bytes=int(num_bytes.sum()),
        seconds=time.perf_counter() - started,
    )


def _selected(windows: LanguageWindows, limit: int | None) -> tuple[Tensor, NDArray[np.float64]]:
    """Tokens ``[n, T + 1]`` and bytes ``[n]`` of at most ``limit`` windows."""
    tokens = torch.as_tensor(windows.input_ids).cpu()
    num_bytes = torch.as_tensor(windows.num_bytes).cpu()
    if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ValueError(f"input_ids must be [n, T + 1] with n and T from 1, got {list(tokens.shape)}")
    if num_bytes.shape != tokens.shape[:1]:
        raise ValueError(f"num_bytes must be {[len(tokens)]}, one a window, got {list(num_bytes.shape)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if limit is not None and limit < len(tokens):
        # the first windows would be one book, or one author
        chosen = torch.arange(limit) * len(tokens) // limit
        tokens, num_bytes = tokens[chosen], num_bytes[chosen]
    return tokens.long(), num_bytes.double().numpy()


def _chance(targets: Tensor, unigram: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits and correct guesses of each window for who knows the frequencies only, ``[n]`` each."""
    probability = token_probabilities(targets, unigram)
    bits = -probability.log2()[targets].sum(1)
    correct = (targets == probability.argmax()).sum(1)
    return bits.numpy(), correct.double().numpy()


def token_probabilities(targets: Tensor, unigram: Tensor | None = None) -> Tensor:
    """Probability of each token without its context, ``float64 [V]``: what chance is made of.

    Args:
        targets: All predicted tokens, of any shape.
        unigram: The probabilities where they are known; else each token counts once more than it occurs in
            ``targets``.

    Raises:
        ValueError: If ``unigram`` is no distribution or has no entry for a token.
    """
    if unigram is None:
        counts = targets.reshape(-1).bincount().double() + 1
        return counts / counts.sum()
    probability = unigram.detach().cpu().double()
    if probability.dim() != 1 or not (probability > 0).all() or abs(float(probability.sum()) - 1) > 1e-3:
        raise ValueError(
            "unigram must be [V] positive probabilities that sum to 1, got shape "
            f"{list(probability.shape)}, least {float(probability.min())}, sum {float(probability.sum())}"
        )
    if int(targets.max()) >= len(probability):
        raise ValueError(
            f"unigram must have an entry for each token, got {len(probability)} entries "
            f"and token {int(targets.max())}"
        )
    return probability


def _array(values: list[Tensor]) -> NDArray[np.float64]:
    return torch.stack(values).double().numpy()
