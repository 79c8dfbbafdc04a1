"""Many prompts continued at once, each token the most probable one.

    prompts, padded in front -> read once -> next token of each -> read with the cache of what came before -> ...

Rows that are finished leave the batch when they are half of it, so a long answer does not hold up short ones.
A row's continuation does not depend on the others of its batch, but for the network's own rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.evaluation.scoring import reading

_LOOK_EVERY = 8  # tokens between two looks at the text, which has to be decoded for it


def continue_greedily(
    network: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    ends: AbstractSet[int] = frozenset(),
    finished: Callable[[Sequence[int]], bool] = lambda tokens: False,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt by the most probable tokens.

    Args:
        network: A causal language model of transformers; without a cache the whole text is read for each token.
        prompts: Tokens, at least one each.
        max_new_tokens: At most; the network must have positions for these and the prompt.
        ends: Tokens that end a text; they are not returned.
        finished: Whether the new tokens of a row are enough. It is asked now and then, so that a row may have a few
            tokens more.
        batch_size: Prompts at a time, the longest first.
        device: Where the network is; by default that of its first parameter.
        progress: Called with the prompts done and the prompts in all, after each batch.

    Returns:
        The new tokens of each prompt, in order.

    Raises:
        ValueError: If a prompt is empty or a number is below 1.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(
            f"batch_size and max_new_tokens must be at least 1, got {batch_size} and {max_new_tokens}"
        )
    if not all(prompts):
        raise ValueError(
            f"prompts must have at least one token each, got none at {[*map(len, prompts)].index(0)}"
        )
    if device is None:
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    with reading(network):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = _Batch(network, [prompts[index] for index in chosen], device)
            for place, new in batch.run(max_new_tokens, ends, finished):
                answers[chosen[place]] = new
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
    return answers


class _Batch:
    """Rows that are continued together."""

    def __init__(self, network: Any, prompts: Sequence[Sequence[int]], device: torch.device | str) -> None:
        self._network = network
        longest = max(map(len, prompts))
        self._tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        self._mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, mask, prompt in zip(self._tokens, self._mask, prompts, strict=True):
            row[longest - len(prompt) :] = torch.tensor(prompt)
            mask[longest - len(prompt) :] = 1
        self._tokens, self._mask = self._tokens.to(device), self._mask.to(device)
        self._cache: Any = None
        self._takes = set(inspect.signature(network.forward).parameters)

    def run(
        self, count: int, ends: AbstractSet[int], finished: Callable[[Sequence[int]], bool]
    ) -> Iterator[tuple[int, list[int]]]:
        """The row and its new tokens, of each row when it is finished."""
        rows = list(range(len(self._tokens)))
        new: list[list[int]] = [[] for _ in rows]
        done = [False] * len(rows)
        for step in range(1, count + 1):
            following = self._next_logits().argmax(-1)
            for place, token in enumerate(following.tolist()):
                if done[place]:
                    continue
                if token in ends:
                    done[place] = True
                else:
                    new[place].append(token)
                    done[place] = step % _LOOK_EVERY == 0 and finished(new[place])
            if all(done):
                break
            self._append(following)
            if 2 * sum(done) >= len(done):
                yield from ((rows[place], new[place]) for place in range(len(rows)) if done[place])
                kept = [place for place in range(len(rows)) if not done[place]]
                self._keep(kept)
                rows, new = [rows[place] for place in kept], [new[place] for place in kept]
                done = [False] * len(kept)
        yield from zip(rows, new, strict=True)

    def _next_logits(self) -> Tensor:
        """Logits ``[b, V]`` of the token after the last."""
        arguments: dict[str, Any] = {"input_ids": self._tokens, "attention_mask": self._mask}
        if "position_ids" in self._takes:  # padding in front has no position
            arguments["position_ids"] = (self._mask.cumsum(-1) - 1).clamp_min(0)
        if self._cache is not None:
            arguments |= {"past_key_values": self._cache, "input_ids": self._tokens[:, -1:]}
            if "position_ids" in arguments:
                arguments["position_ids"] = arguments["position_ids"][:, -1:]
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = 1
        output = self._network(**arguments, use_cache=True)
        self._cache = getattr(output, "past_key_values", None)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _append(self, following: Tensor) -> None:
        self._tokens = torch.cat([self._tokens, following[:, None]], dim=1)
        self._mask = torch.cat([self._mask, torch.ones_like(following)[:, None]], dim=1)

    def _keep(self, places: Sequence[int]) -> None:
        chosen = torch.tensor(places, device=self._tokens.device)
        self._tokens, self._mask = self._tokens[chosen], self._mask[chosen]
        if self._cache is not None and hasattr(self._cache, "batch_select_indices"):
            self._cache.batch_select_indices(chosen)
        else:
            self._cache = None  # what came before is read again
