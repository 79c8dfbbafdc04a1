"""Train or fine-tune a causal language model.

input_ids [b, t + 1] -> network reads the first t -> logits [b, t, vocab] -> cross-entropy with the last t
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.evaluation.harness import BenchmarkSettings
from fulgurite.models import build_causal_lm, load_causal_lm, load_tokenizer, save_causal_lm
from lightning_modules.language_compression import LanguageCompression
from lightning_modules.optimisation import adamw_cosine
from lightning_modules.sharded import is_sharded, shard, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Batch = dict[str, Tensor]


class LanguageModel(LanguageCompression, LightningModule):
    """A causal language model of transformers, started from weights or from settings.

    Loss is the mean cross-entropy in nats per token. Validation logs ``val/loss``, ``val/acc`` (share of
    next tokens predicted, 0 to 1) and, where batches have ``num_bytes``, ``val/bits_per_byte``, which does
    not depend on the tokenizer. Precision, clipping and accumulation are the Trainer's settings; with the strategy
    ``lightning_modules.Sharded`` no device needs room for the whole network.

    Args:
        source: Folder or hub id of a network to go on training.
        config: Settings of a new network, ``{"model_type": "llama", "hidden_size": 128, ...}``; where
            ``vocab_size`` is missing it is the data module's.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: For matrices; norms, biases and embeddings do not decay.
        warmup_steps: Steps of the linear rise; ``None`` takes ``warmup_share``.
        warmup_share: Share of the run that the rise takes.
        min_learning_rate_share: Share of ``learning_rate`` at the end of the cosine.
        betas: Momenta of AdamW.
        export_dir: Folder to which the network and tokenizer are saved at the end of a fit, as
            transformers reads them.
        predict_prompt_tokens: Tokens of each window that ``predict`` starts from.
        predict_new_tokens: Tokens that it adds, greedily.
        measure_by: A cascade judges by ``windows`` of tokens, or by ``spans`` of text, which networks with other
            tokens can be compared on.
        last_word_questions: Sentences, in addition to spans, whose last word is told from three others.
        benchmarks: Benchmarks that a cascade judges by as well; none by default.

    Raises:
        ValueError: If not exactly one of ``source`` and ``config`` is given, or a number is out of range.

    Example:
        >>> sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
        >>> module = LanguageModel(config={"model_type": "llama", "num_attention_heads": 4, **sizes})
    """

    network: PreTrainedModel | None

    def __init__(
        self,
        source: str | None = None,
        config: dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        warmup_steps: int | None = None,
        warmup_share: float = 0.05,
        min_learning_rate_share: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        export_dir: str | None = None,
        predict_prompt_tokens: int = 16,
        predict_new_tokens: int = 48,
        measure_by: Literal["windows", "spans"] = "windows",
        last_word_questions: int = 0,
        benchmarks: BenchmarkSettings | None = None,
    ) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise ValueError(
                f"give source or config, not both or none; got source {source!r}, config {config!r}"
            )
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        if warmup_steps is not None and warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
        for name, share in (
            ("warmup_share", warmup_share),
            ("min_learning_rate_share", min_learning_rate_share),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        self.save_hyperparameters(ignore=["benchmarks"])  # of the cascade: a checkpoint has no use for them
        self.source = source
        self.config = None if config is None else dict(config)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.warmup_share = warmup_share
        self.min_learning_rate_share = min_learning_rate_share
        self.betas = (float(betas[0]), float(betas[1]))
        self.export_dir = export_dir
        self.predict_prompt_tokens = predict_prompt_tokens
        self.predict_new_tokens = predict_new_tokens
        self.network = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._given_datamodule: LightningDataModule | None = None
        if last_word_questions < 0 or (last_word_questions and measure_by != "spans"):
            raise ValueError(
                f"last_word_questions must be at least 0, and 0 unless measure_by is spans, got {last_word_questions}"
            )
        self.measure_by = measure_by
        self.last_word_questions = last_word_questions
        self.benchmarks = benchmarks

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that lies beside ``source``, or else the data module's."""
        if self._tokenizer is None and self.source is not None:
            self._tokenizer = load_tokenizer(self.source)
        if self._tokenizer is None:
            self._tokenizer = getattr(self._datamodule, "tokenizer", None)
        return self._tokenizer

    def use_datamodule(self, datamodule: LightningDataModule) -> None:
        """Take tokenizer and vocabulary from ``datamodule``; a Trainer's own is found without it."""
        self._given_datamodule = datamodule

    @property
    def _datamodule(self) -> Any:
        if self._given_datamodule is not None or self._trainer is None:
            return self._given_datamodule
        return getattr(self._trainer, "datamodule", None)

    @override
    def configure_model(self) -> None:
        if self.network is not None:
            return
        if self.source is not None:
            self.network = load_causal_lm(self.source)
        else:
            assert self.config is not None
            # asked for only where it is needed: it may train a tokenizer
            known = self.config.get("vocab_size") is not None
            vocab_size = None if known else getattr(self._datamodule, "vocab_size", None)
            self.network = build_causal_lm(self.config, vocab_size)
            # a checkpoint can then be read without the data
            self.hparams["config"] = {**self.config, "vocab_size": self.network.config.vocab_size}
        self.network.train()
        if is_sharded(self):
            strategy: Any = self.trainer.strategy
            shard(self.network, strategy)

    @override
    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits ``[b, t, vocab]`` of the token after each of ``input_ids [b, t]``."""
        if self.network is None:
            raise RuntimeError("the network is made by configure_model(), which was not called yet")
        logits: Tensor = self.network(input_ids=input_ids, use_cache=False).logits
        return logits

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean nats per token, and the share of tokens predicted."""
        tokens, targets = batch["input_ids"][:, :-1], batch["input_ids"][:, 1:]
        logits = self(tokens).float()  # half-precision logits would round away small differences
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss, (logits.detach().argmax(-1) == targets).float().mean()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["input_ids"]))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, stage: str) -> None:
        loss, accuracy = self._loss(batch)
        rows, columns = batch["input_ids"].shape
        log = partial(self.log, sync_dist=True, on_step=False, on_epoch=True)
        log(f"{stage}/loss", loss, prog_bar=True, batch_size=rows)
        log(f"{stage}/acc", accuracy, batch_size=rows)
        if "num_bytes" in batch:
            num_bytes = int(batch["num_bytes"].sum())
            bits = loss * rows * (columns - 1) / math.log(2)
            # weighted by bytes, the mean over batches is all bits over all bytes
            log(f"{stage}/bits_per_byte", bits / num_bytes, prog_bar=True, batch_size=num_bytes)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, str]]:
        """Greedy continuations of the first tokens of each window."""
        if self.network is None or self.tokenizer is None:
            raise ValueError(
                "predict needs a network and a tokenizer: give source, or a data module with one"
            )
        network: Any = self.network
        prompts = batch["input_ids"][:, : self.predict_prompt_tokens]
        tokens = network.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=self.predict_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )
        return [
            {
                "prompt": self._text(row[: prompts.shape[1]]),
                "continuation": self._text(row[prompts.shape[1] :]),
            }
            for row in tokens
        ]

    def _text(self, tokens: Tensor) -> str:
        assert self.tokenizer is not None
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True))

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_cosine(
            self,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_share=self.warmup_share,
            warmup_steps=self.warmup_steps,
            least=self.min_learning_rate_share,
            betas=self.betas,
        )

    @override
    def on_fit_end(self) -> None:
        if self.export_dir is None:
            return
        if is_sharded(self):  # all processes give their parts, and one of them writes
            network = whole(self.network, self.global_rank)
            if network is not None:
                save_causal_lm(network, self.tokenizer, self.export_dir)
        elif self.trainer.is_global_zero:
            self.export(self.export_dir)

    def export(self, folder: str | Path) -> Path:
        """Save the network and, where there is one, its tokenizer as transformers reads them.

        The files are written beside ``folder`` and moved there when all are whole.

        Raises:
            ValueError: If there is no network yet.
        """
        if self.network is None:
            raise ValueError("there is no network to export; fit first, or call configure_model()")
        return save_causal_lm(self.network, self.tokenizer, folder)

    def successor(self, folder: Path, datamodule: Any, limit: int | None = None) -> LanguageModel:
        """A module around what ``save_as`` has saved; see ``Compressible``."""
        made = LanguageModel(
            source=str(folder),
            measure_by=self.measure_by,
            last_word_questions=self.last_word_questions,
            benchmarks=self.benchmarks,
        )
        made._suite = self._suite
        made.configure_model()
        if self.measure_by == "spans":
            made._judge = self._span_judge(datamodule, limit)
        elif made.vocabulary() != self.vocabulary():
            raise ValueError(
                f"{folder} has other tokens than the network that it is compared with; "
                "give the model measure_by: spans"
            )
        return made

    def vocabulary(self) -> dict[str, int] | None:
        """Tokens and their ids; ``None`` without a tokenizer."""
        return None if self.tokenizer is None else dict(self.tokenizer.get_vocab())
