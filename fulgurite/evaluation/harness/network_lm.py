"""A network in memory as lm-evaluation-harness asks for one: nothing is saved, and batches are of equal length.

    (context, continuation) -> tokens -> score_rows        -> log-probability, greedy or not
    text                    -> windows of tokens -> score_rows -> log-probability
    prompt, stops           -> continue_greedily           -> text

What is tokenised how, which end of a long text is cut off and what comes before the first token is as the harness's
own ``hf`` model has it (Gao et al., "The Language Model Evaluation Harness", https://zenodo.org/records/12608602),
so that scores are the same to the item. This module imports the harness: import it where it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn
from typing_extensions import override

from fulgurite.evaluation.greedy import continue_greedily
from fulgurite.evaluation.scoring import Row, score_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DEFAULT_NEW_TOKENS = 256  # the harness's own
_LOOK_BACK = 64  # tokens in which a stop is looked for: more than its bytes and the tokens between two looks

Progress = Callable[[str, int, int], None]


class NetworkLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A causal language model and its tokenizer.

    Args:
        network: ``network(input_ids=...)`` gives logits or an object with them; one of transformers where text is
            asked for.
        tokenizer: The network's own; it is not changed.
        batch_size: Rows of full length at a time; shorter ones are more at a time.
        progress: Called with what is done (``choices``, ``texts``, ``answers``), how many and how many in all.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._progress = progress
        config = getattr(network, "config", None)
        self.max_length = _positions(config, tokenizer)
        self._ends = _end_tokens(network, tokenizer)
        self.tok_encode_cached = lru_cache(maxsize=4096)(self._encode)

    @property
    @override
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    @override
    def prefix_token_id(self) -> int:
        """What is read before the first token of a text."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ValueError(
            "the tokenizer has neither a beginning nor an end token, and texts have to begin with one of them"
        )

    @override
    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return list(self.tok_encode_cached(string, add_special_tokens))

    def _encode(self, string: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        chosen: dict[str, Any] = {}
        if add_special_tokens is not None:
            chosen["add_special_tokens"] = add_special_tokens
        elif has_bos_prefix(string, self.tokenizer.bos_token):
            chosen["add_special_tokens"] = False
        return tuple(self.tokenizer(string, verbose=False, **chosen)["input_ids"])

    @override
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        return [
            (-float(score.nats.sum()), bool(score.correct.all())) for score in self._scores(rows, "choices")
        ]

    @override
    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        rows: list[Row] = []
        ends: list[int] = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            rows += [self._row(*make_disjoint_window(window)) for window in windows]
            ends.append(len(rows))
        nats = [float(score.nats.sum()) for score in self._scores(rows, "texts")]
        starts = [0, *ends[:-1]]
        return [-sum(nats[start:end]) for start, end in zip(starts, ends, strict=True)]

    @override
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers = [""] * len(requests)
        kinds: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            kinds.setdefault(repr(request.args[1]), []).append(index)
        for indices in kinds.values():
            settings = requests[indices[0]].args[1]
            prompts = [requests[index].args[0] for index in indices]
            for index, text in zip(indices, self._generate(prompts, settings), strict=True):
                answers[index] = text
        return answers

    def _row(self, context: Sequence[int], continuation: Sequence[int]) -> Row:
        """The last tokens that the network has positions for; the very last is not read."""
        if not 0 < len(continuation) <= self.max_length:
            raise ValueError(
                f"a continuation must have 1 to {self.max_length} tokens, as many as the network has positions, "
                f"got {len(continuation)}: {self.tokenizer.decode(list(continuation)[:20])!r}"
            )
        tokens = (*context, *continuation)[-(self.max_length + 1) :]
        return Row(tokens, len(tokens) - len(continuation))

    def _scores(self, rows: Sequence[Row], what: str) -> Any:
        return score_rows(
            self.network,
            rows,
            batch_size=self.batch_size,
            batch_tokens=self.batch_size * min(self.max_length, 512),
            max_tokens=max(self.max_length, 2),
            progress=self._telling(what),
        )

    def _generate(self, prompts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        wanted = normalize_gen_kwargs(dict(settings), _DEFAULT_NEW_TOKENS)
        until = wanted.pop("until", None) or []
        stops = [until] if isinstance(until, str) else list(until)
        count = int(wanted.pop("max_gen_toks"))
        if wanted.pop("do_sample", False) or wanted.pop("temperature", 0.0):
            raise ValueError(
                f"answers are the most probable ones: expected do_sample false, got {dict(settings)}"
            )
        if wanted:
            raise ValueError(f"generation_kwargs must be until and max_gen_toks, got also {sorted(wanted)}")
        most = self.max_length - count
        if most <= 0:
            raise ValueError(
                f"max_gen_toks must leave positions for the prompt: got {count} of the network's {self.max_length}"
            )
        if self.eot_token_id is not None:
            stops.append(str(self.tokenizer.decode([self.eot_token_id])))
        new = continue_greedily(
            self.network,
            [self.tok_encode(prompt)[-most:] for prompt in prompts],
            max_new_tokens=count,
            ends=self._ends,
            finished=lambda tokens: any(stop and stop in self._text(tokens[-_LOOK_BACK:]) for stop in stops),
            batch_size=self.batch_size,
            progress=self._telling("answers"),
        )
        return [str(postprocess_generated_text(self._text(tokens), stops, None)) for tokens in new]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _telling(self, what: str) -> Callable[[int, int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done, count: progress(what, done, count)


def _positions(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    from lm_eval.models.utils import resolve_max_length

    return int(resolve_max_length(config, tokenizer))


def _end_tokens(network: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens at which the network's own ``generate`` ends a text."""
    found = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    listed = found if isinstance(found, list) else [found]
    return frozenset(int(token) for token in listed if token is not None)
