"""What a cascade needs of a language model: see ``Compressible``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Generator, Tensor, nn
from torch.nn import functional

from fulgurite.artifact.network_files import network_files
from fulgurite.calibration import count_positions, sampled_loss
from fulgurite.distillation import Outputs, observe
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.generation import generate
from fulgurite.evaluation.harness import BenchmarkSettings, LanguageSuite
from fulgurite.evaluation.language import evaluate_language
from fulgurite.evaluation.scoring import evenly_spaced
from fulgurite.models import save_causal_lm
from lightning_modules.span_judge import SpanJudge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLES = 3
_PROMPT_TOKENS = 12
_NEW_TOKENS = 48


class LanguageCompression:
    """Bits per byte and next-token accuracy on held-out windows; text to calibrate and refine on.

    A mixin for LightningModules with a causal language model; the data module is a ``TextDataModule``.
    """

    network: Any
    measure_by: Literal["windows", "spans"] = "windows"
    last_word_questions: int = 0
    benchmarks: BenchmarkSettings | None = None
    _judge: SpanJudge | None = None
    _suite: LanguageSuite | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The network's tokenizer, where it has one."""
        return None

    def evaluate_network(
        self,
        network: nn.Module,
        datamodule: Any,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Measure a network on the validation windows, or on spans of their text, and by its benchmarks.

        While benchmarks are asked, ``progress`` goes on being called, with as many windows as there are: whoever is
        asked to stop finds out.
        """
        reached = 0

        def advance(done: int) -> None:
            nonlocal reached
            reached = max(reached, done)
            if progress is not None:
                progress(reached)

        found = self._evaluate_text(network, datamodule, limit, advance)
        if self.benchmarks is None:
            return found
        suite, size = self.benchmark_suite(), self.benchmarks.batch_size
        more = suite.evaluate(
            network,
            self._own_tokenizer(),
            batch_size=size,
            progress=lambda what, done, count: advance(reached),
        ).evaluation
        return replace(found, measures=[*found.measures, *more.measures], facts={**found.facts, **more.facts})

    def benchmark_suite(self) -> LanguageSuite:
        """The benchmarks with their items, read once.

        Raises:
            ValueError: If the module has none, or they cannot be read.
        """
        if self.benchmarks is None:
            raise ValueError("the module has no benchmarks: expected the setting benchmarks")
        if self._suite is None:
            self._suite = self.benchmarks.load()
        return self._suite

    def _evaluate_text(
        self, network: nn.Module, datamodule: Any, limit: int | None, progress: Callable[[int], None] | None
    ) -> Evaluation:
        if self.measure_by == "spans":
            judge = self._span_judge(datamodule, limit)
            return judge.evaluate(network, self._own_tokenizer(), datamodule.batch_size, progress)
        result = evaluate_language(
            network,
            datamodule.evaluation_windows("validation"),
            unigram=datamodule.unigram() if datamodule.has_split("train") else None,
            batch_size=datamodule.batch_size,
            limit=limit,
            progress=None if progress is None else lambda done, _: progress(done),
        )
        facts = {"perplexity": result.perplexity, "tokens_per_second": result.tokens / result.seconds}
        return Evaluation(result.measures, facts)

    def item_count(self, datamodule: Any, limit: int | None = None) -> int | None:
        """The validation windows; of spans, and with benchmarks, the measures are of different items."""
        if self.measure_by == "spans" or self.benchmarks is not None:
            return None
        count = len(datamodule.evaluation_windows("validation"))
        return count if limit is None else min(limit, count)

    def evaluate_items(
        self,
        network: nn.Module,
        datamodule: Any,
        items: Sequence[int],
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Measure a network on some of the validation windows."""
        windows = datamodule.evaluation_windows("validation")
        kept = evenly_spaced(len(windows), limit)
        chosen = [kept[place] for place in items]
        part = replace(windows, input_ids=windows.input_ids[chosen], num_bytes=windows.num_bytes[chosen])
        result = evaluate_language(
            network,
            part,
            unigram=datamodule.unigram() if datamodule.has_split("train") else None,
            batch_size=datamodule.batch_size,
            progress=None if progress is None else lambda done, _: progress(done),
        )
        facts = {"perplexity": result.perplexity, "tokens_per_second": result.tokens / result.seconds}
        return Evaluation(result.measures, facts)

    def _span_judge(self, datamodule: Any, limit: int | None) -> SpanJudge:
        """The spans; those of the network that this one has succeeded, where it has."""
        if self._judge is None:
            self._judge = SpanJudge.of(datamodule, self._own_tokenizer(), self.last_word_questions, limit)
        return self._judge

    def _own_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise ValueError("measure_by spans and benchmarks need the network's tokenizer; there is none")
        return self.tokenizer

    def data_facts(self, datamodule: Any, limit: int | None = None) -> dict[str, Any]:
        """The validation windows, or spans, in numbers; and the benchmarks' items."""
        facts = self._text_facts(datamodule, limit)
        if self.benchmarks is not None:
            suite = self.benchmark_suite()
            facts |= {"benchmarks": suite.counts, "sha256": f"{facts['sha256']}-{suite.digest}"}
        return facts

    def _text_facts(self, datamodule: Any, limit: int | None) -> dict[str, Any]:
        windows = datamodule.evaluation_windows("validation")
        count = min(len(windows), limit or len(windows))
        largest, known = int(windows.input_ids.max()), self.network.get_input_embeddings().num_embeddings
        if largest >= known:
            raise ValueError(
                f"the tokenizer gives token {largest}, the network knows {known}: is it another network's tokenizer?"
            )
        if self.measure_by == "spans":
            judge = self._span_judge(datamodule, limit)
            return {
                "description": datamodule.describe("validation"),
                "items": "spans",
                "windows": len(judge.spans),
                "tokens": sum(map(len, self._own_tokenizer()(list(judge.spans), verbose=False)["input_ids"])),
                "bytes": judge.num_bytes,
                "sha256": f"{judge.digest}-{datamodule.batch_size}",
            }
        digest = hashlib.sha256(windows.input_ids.numpy().tobytes())
        digest.update(windows.num_bytes.numpy().tobytes())
        if datamodule.has_split("train"):  # its token frequencies are the chance level
            digest.update(datamodule.unigram().numpy().tobytes())
        return {
            "description": datamodule.describe("validation"),
            "windows": count,
            "tokens": windows.num_tokens * count // len(windows),
            "bytes": int(windows.num_bytes.sum()) * count // len(windows),
            "sha256": f"{digest.hexdigest()}-{count}-{datamodule.batch_size}",
        }

    def calibration_batches(self, datamodule: Any) -> Iterable[Mapping[str, Tensor]]:
        """Windows of the training text, on the network's device."""
        device = next(self.network.parameters()).device
        for batch in datamodule.calibration_batches():
            yield {name: values.to(device) for name, values in batch.items()}

    def refinement_windows(self, datamodule: Any, count: int) -> Tensor:
        """Windows of the training text, evenly spaced."""
        windows: Tensor = datamodule.training_windows(count)
        return windows

    def as_batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Windows are full: no mask."""
        return {"input_ids": rows}

    def divergence(
        self, outputs: Any, reference: Any, batch: Mapping[str, Tensor], temperature: float = 1.0
    ) -> Tensor:
        """``KL(reference || outputs)`` per position, in nats times ``temperature ** 2``.

        The factor keeps the gradient's size (Hinton et al., 2015, section 2.1, https://arxiv.org/abs/1503.02531).
        """
        student = functional.log_softmax(outputs.logits.float() / temperature, dim=-1)
        teacher = functional.log_softmax(reference.logits.float() / temperature, dim=-1)
        each = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        return _mean_where(each, batch.get("attention_mask")) * temperature**2

    def sampled_loss(self, network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """Every position is a place."""
        return sampled_loss(network, batch, generator)

    def count_places(self, batch: Mapping[str, Tensor]) -> int:
        """Every position."""
        return count_positions(batch)

    def text_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """All but the padding."""
        return batch.get("attention_mask")

    def samples(self, network: nn.Module, datamodule: Any, prompts: Sequence[str]) -> list[tuple[str, str]]:
        """Greedy continuations of the prompts, or of the start of held-out windows where there are none."""
        if self.tokenizer is None:
            return []
        chosen = list(prompts)
        if not chosen:
            windows = datamodule.evaluation_windows("validation").input_ids
            rows = [windows[len(windows) * index // _SAMPLES] for index in range(min(_SAMPLES, len(windows)))]
            chosen = [str(self.tokenizer.decode(row[:_PROMPT_TOKENS].tolist())) for row in rows]
        return [
            (prompt, generate(network, self.tokenizer, prompt, max_new_tokens=_NEW_TOKENS))
            for prompt in chosen
        ]

    def watch(self, network: nn.Module, inputs: Mapping[str, Tensor], wanted: frozenset[str]) -> Outputs:
        """Logits, and what else is asked for; a language model gives no vectors of texts."""
        return observe(network, inputs, wanted)[1]

    def save_as(self, folder: Path, network: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """As a folder of transformers."""
        save_causal_lm(network, tokenizer or self.tokenizer, folder)

    def artifact_files(self) -> dict[str, bytes]:
        """Configuration and tokenizer."""
        return network_files(self.network, self.tokenizer)


def _mean_where(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.mean() if mask is None else values[mask.bool()].mean()
