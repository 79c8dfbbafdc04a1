"""What a language model loses when a token is spelt with others.

    rows of text -> some tokens of each replaced by the tokens that their text is cut into without them
    -> nats of the spelling and of what follows, less those of the original -> mean of each token x its count

Every replaced token is measured in its own context, many in one pass: what a replacement changes fades within some
tokens, so that of two replacements far enough apart each is charged with its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fulgurite.vocabulary._backend import all_tokens, id_count, read_state, special_ids
from fulgurite.vocabulary.kinds import read_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_HORIZON = 16  # tokens after a replaced one whose nats are charged to it
_PRIOR_SAMPLES = 4.0  # how many samples of its own a token needs to count as much as the mean of all


def token_scores_by_loss(
    network: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    rows: Tensor,
    counts: Tensor,
    *,
    passes: int = 4,
    share: float = 0.08,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Nats that a text costs more when a token is spelt with others, for each token: ``scores`` of ``select_tokens``.

    Rare tokens are replaced relatively more often; one that is never replaced, or seldom, is given what others
    cost for each token that the text grows by.

    Args:
        network: ``network(input_ids=...)`` gives logits ``[b, t, V]`` or an object with ``.logits``; it is run in
            eval mode without gradients and goes back to the mode it was in.
        tokenizer: Its tokenizer.
        rows: Stretches of text, integers ``[n, t]``, t from 2.
        counts: How often each token occurs in the text that the scores are for, ``[len(tokenizer)]``.
        passes: How often each row is read with replacements.
        share: Of its tokens that are replaced at a time.
        batch_size: Rows at a time.
        seed: Of the choice.
        progress: Called with the rows done and the rows in all.

    Returns:
        ``float64 [len(tokenizer)]``, from 0.

    Raises:
        ValueError: If a number is out of range or a shape does not fit.
    """
    size = id_count(tokenizer)
    if rows.dim() != 2 or rows.shape[1] < 2 or rows.is_floating_point():
        raise ValueError(f"rows must be integers [n, t], t from 2, got {rows.dtype} {list(rows.shape)}")
    if counts.shape != (size,):
        raise ValueError(f"counts must be [{size}], one a token, got {list(counts.shape)}")
    if passes < 1 or batch_size < 1 or not 0 < share <= 1:
        raise ValueError(
            f"passes and batch_size must be at least 1 and share in (0, 1], got {passes}, {batch_size}, {share}"
        )
    state = read_state(tokenizer)
    pieces, everything = read_pieces(state), set(all_tokens(tokenizer))
    candidates = everything & set(pieces.vocabulary.values()) - special_ids(tokenizer, state)
    spelt = {token: pieces.spell(token, everything) for token in sorted(candidates)}
    spellings = {token: parts for token, parts in spelt.items() if parts}
    rows = rows.cpu()
    weights = torch.zeros(size, dtype=torch.float64)
    weights[list(spellings)] = 1.0
    weights *= rows.flatten().bincount(minlength=size).clamp_min(1).rsqrt()
    generator = torch.Generator().manual_seed(seed)
    lost, samples = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                before = _running_nats(network, batch.tolist())
                for _ in range(passes):
                    _measure(network, batch, before, weights, share, spellings, generator, lost, samples)
                if progress is not None:
                    progress(min(start + batch_size, len(rows)), len(rows))
    finally:
        for module, training in modes.items():  # parts may be frozen in eval mode while the rest trains
            module.training = training
    growth = torch.zeros(size, dtype=torch.float64)
    for token, parts in spellings.items():
        growth[token] = len(parts) - 1
    per_token = lost.sum() / (samples * growth).sum().clamp_min(1.0)
    mean = (lost + _PRIOR_SAMPLES * per_token * growth) / (samples + _PRIOR_SAMPLES)
    return mean.clamp_min(0.0) * counts.double()


def _measure(
    network: nn.Module,
    batch: Tensor,
    before: list[Tensor],
    weights: Tensor,
    share: float,
    spellings: dict[int, list[int]],
    generator: torch.Generator,
    lost: Tensor,
    samples: Tensor,
) -> None:
    """Replace some tokens of each row and add up what each of them cost."""
    chosen: list[list[int]] = []
    for row in batch:
        odds = weights[row]
        odds[0] = 0.0  # nothing predicts the first
        count = min(max(1, round(share * len(row))), int((odds > 0).sum()))
        drawn = (
            torch.multinomial(odds, count, generator=generator)
            if count
            else torch.tensor([], dtype=torch.int64)
        )
        chosen.append(sorted(drawn.tolist()))
    texts: list[list[int]] = []
    places: list[list[int]] = []
    for row, positions in zip(batch.tolist(), chosen, strict=True):
        text: list[int] = []
        starts: list[int] = []
        done = 0
        for position in positions:
            text += row[done:position]
            starts.append(len(text))
            text += spellings[row[position]]
            done = position + 1
        texts.append(text + row[done:])
        places.append(starts)
    after = _running_nats(network, texts)
    for index, row in enumerate(batch.tolist()):
        ends = [*chosen[index][1:], len(row)]
        for position, start, end in zip(chosen[index], places[index], ends, strict=True):
            token = row[position]
            following = min(end - position - 1, _HORIZON)
            new, old = after[index], before[index]
            spelt = new[start + len(spellings[token]) + following] - new[start]
            lost[token] += spelt - (old[position + 1 + following] - old[position])
            samples[token] += 1


def _running_nats(network: nn.Module, texts: list[list[int]]) -> list[Tensor]:
    """Of each text the nats of its first 0, 1, 2, ... tokens, ``float64 [t + 1]``; the first token's are 0."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    longest = max(map(len, texts))
    # what stands after a text's end changes nothing before it
    padded = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=device)
    output: Any = network(input_ids=padded)
    logits = output if isinstance(output, Tensor) else output.logits
    running = []
    for text, row, ids in zip(texts, logits, padded, strict=True):
        nats = functional.cross_entropy(row[:-1].float(), ids[1:], reduction="none").cpu().double()
        running.append(functional.pad(nats[: len(text) - 1].cumsum(0), (2, 0)))
    return running
