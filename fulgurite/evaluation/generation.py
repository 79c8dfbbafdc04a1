"""A sample of text, always the most probable one: what a report shows before and after compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int = 60
) -> str:
    """Continue ``prompt`` greedily.

    Uses the network's own ``generate`` (transformers, with its cache) where there is one; else the whole text
    is read again for each token.

    Args:
        network: ``network(input_ids=...)`` gives logits ``[1, T, V]`` or an object with ``.logits``.
        tokenizer: The network's tokenizer.
        prompt: May be empty where the tokenizer has a token for the beginning of a text.
        max_new_tokens: Tokens at most; fewer where the network ends the text.

    Returns:
        Prompt and continuation, without special tokens. They are decoded together, since many tokenizers drop
        the space in front of a text that is decoded by itself.

    Raises:
        ValueError: If ``max_new_tokens`` is below 1, or the prompt has no token and there is none to begin
            with.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    ids = _prompt_ids(tokenizer, prompt).to(device)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            if callable(getattr(network, "generate", None)):
                tokens = _library(network, tokenizer, ids, max_new_tokens)
            else:
                tokens = _loop(network, tokenizer.eos_token_id, ids, max_new_tokens)
    finally:
        for module, training in modes.items():
            module.training = training
    return str(tokenizer.decode(tokens[0].tolist(), skip_special_tokens=True))


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tensor:
    ids: list[int] = list(tokenizer(prompt)["input_ids"])
    if not ids:
        if tokenizer.bos_token_id is None:
            raise ValueError(
                f"prompt must have at least one token, got {prompt!r} and no token to begin with"
            )
        ids = [int(tokenizer.bos_token_id)]
    return torch.tensor([ids])


def _library(network: Any, tokenizer: PreTrainedTokenizerBase, ids: Tensor, max_new_tokens: int) -> Tensor:
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens: Tensor = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=padding,  # unused with one prompt, but a warning without
    )
    return tokens


def _loop(network: nn.Module, end: Any, ids: Tensor, max_new_tokens: int) -> Tensor:
    for _ in range(max_new_tokens):
        output = network(input_ids=ids)
        logits = output if isinstance(output, Tensor) else output.logits
        following = logits[:, -1].argmax(-1, keepdim=True)  # [1, 1]
        ids = torch.cat([ids, following], dim=1)
        if end is not None and int(following) == end:
            break
    return ids
