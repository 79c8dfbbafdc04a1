"""What LightningModules of image-text networks have in common.

    source | config + tokenizer -> network, adapter -> fit -> export

What a batch costs is the subclass's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.evaluation.benchmarks import Benchmark
from fulgurite.models import build_image_text, folder_adapter, load_image_text, train_caption_tokenizer
from fulgurite.models.adapter import ImageTextAdapter
from lightning_modules.compressible import introduce
from lightning_modules.image_text_compression import ImageTextCompression, Original
from lightning_modules.optimisation import adamw_cosine

Batch = dict[str, Tensor]


class ImageTextModule(ImageTextCompression, LightningModule):
    """A network of pictures and texts, started from weights or from settings.

    Args:
        source: Folder, hub id, or ``open_clip:NAME`` of a trained network.
        pretrained: With ``open_clip:NAME``, the tag or checkpoint file of its weights.
        config: Settings of a new network, as ``build_image_text`` takes them: ``{library: open_clip, embed_dim: 128,
            vision_cfg: {...}, text_cfg: {...}}`` or ``{library: transformers, model_type: clip | blip_caption |
            blip_matching, ...}``.
        tokenizer: Folder of the tokenizer of a new network; by default one is made of the train captions.
        vocab_size: Tokens of the tokenizer that is made.
        benchmarks: What the network is measured by; by default what the data allows.
        reference: Source of the network that ``Drift`` compares with in ``validate`` and ``test``.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: For matrices; norms, biases and embeddings do not decay.
        warmup_share: Share of the run in which the learning rate rises.
        min_learning_rate_share: Share of ``learning_rate`` at the end of the cosine.
        betas: Momenta of AdamW.
        export_dir: Folder to which the network is saved at the end of a fit, as its own library reads it.

    Raises:
        ValueError: If not exactly one of ``source`` and ``config`` is given, or a number is out of range.
    """

    tokenizer_kind: ClassVar[Literal["clip", "bert"]] = "clip"
    """Of ``train_caption_tokenizer``."""

    def __init__(
        self,
        source: str | None = None,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        vocab_size: int = 1024,
        benchmarks: list[Benchmark] | None = None,
        reference: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_share: float = 0.05,
        min_learning_rate_share: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.98),
        export_dir: str | None = None,
    ) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise ValueError(
                f"give source or config, not both or none; got source {source!r}, config {config!r}"
            )
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        for name, share in (
            ("warmup_share", warmup_share),
            ("min_learning_rate_share", min_learning_rate_share),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        if benchmarks == []:
            raise ValueError(
                "benchmarks must name at least one, got none; leave the key out for the usual ones"
            )
        self.save_hyperparameters(ignore=["benchmarks"])
        self.source = source
        self.pretrained = pretrained
        self.config = None if config is None else dict(config)
        self.tokenizer_source = tokenizer
        self.vocab_size = vocab_size
        self.benchmarks = None if benchmarks is None else list(benchmarks)
        self.reference = reference
        self._compared: Original | None = None
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_share = warmup_share
        self.min_learning_rate_share = min_learning_rate_share
        self.betas = (float(betas[0]), float(betas[1]))
        self.export_dir = export_dir
        self.network: nn.Module | None = None
        self._adapter: ImageTextAdapter | None = None

    @property
    @override
    def adapter(self) -> ImageTextAdapter:
        """How the network is called."""
        self.configure_model()
        assert self._adapter is not None
        return self._adapter

    @override
    def configure_model(self) -> None:
        if self.network is not None:
            return
        if self.source is not None:
            self.network, self._adapter = load_image_text(self.source, pretrained=self.pretrained)
        else:
            assert self.config is not None
            self.network, self._adapter = build_image_text(self.config, self._tokenizer())
        self.network.train()

    def _tokenizer(self) -> Any:
        """Of a new network: the given one, or else one made of the train captions."""
        if self.tokenizer_source is not None:
            return self.tokenizer_source
        datamodule = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            raise ValueError("a new network needs a tokenizer: give one, or data whose captions make it")
        split = datamodule.split("train")
        # of class folders the captions are the names, and what training reads are sentences with them
        read = getattr(split, "texts", None)
        each = split.captions if read is None else [read(index) for index in range(len(split))]
        texts = [text for some in each for text in some]
        return train_caption_tokenizer(texts, self.vocab_size, self.tokenizer_kind)

    def _own(self) -> nn.Module:
        if self.network is None:
            raise RuntimeError("the network is made by configure_model(), which was not called yet")
        return self.network

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and parts of it to be logged."""
        raise NotImplementedError

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, parts = self.loss(batch)
        rows = len(batch["input_ids"])
        self.log("train/loss", loss, prog_bar=True, batch_size=rows)
        for name, value in parts.items():
            self.log(f"train/{name}", value, batch_size=rows)
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_loss(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_loss(batch, "test")

    def _log_loss(self, batch: Batch, stage: str) -> None:
        loss, parts = self.loss(batch)
        rows = len(batch["input_ids"])
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=rows, sync_dist=True)
        for name, value in parts.items():
            self.log(f"{stage}/{name}", value, batch_size=rows, sync_dist=True)

    @override
    def on_fit_start(self) -> None:
        self._check_benchmarks("validation")  # before an epoch is spent

    @override
    def on_test_start(self) -> None:
        self._check_benchmarks("test")

    @override
    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.VALIDATING:  # in a fit it was done at the start
            self._check_benchmarks("validation")

    def _check_benchmarks(self, name: str) -> None:
        """Refuse benchmarks that cannot be had of this network or data."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is not None and datamodule.has_split(name):
            split = datamodule.split(name)
            for benchmark in self.chosen_benchmarks(split):
                benchmark.check(self.adapter, split)

    def _original(self) -> Original | None:
        """The network that ``Drift`` compares with, outside of a cascade."""
        if self.reference is None:
            return None
        if self._compared is None:
            self._compared = load_image_text(self.reference)
        return self._compared

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the tokenizer, which other data would make another of."""
        files = self.adapter.files(self._own())
        checkpoint["adapter"] = {name: data.decode() for name, data in files.items()}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the tokenizer that the network was trained with."""
        if "adapter" not in checkpoint:
            return
        with tempfile.TemporaryDirectory() as name:
            for file, text in checkpoint["adapter"].items():
                (Path(name) / file).write_text(text, encoding="utf-8")
            self._adapter = folder_adapter(name, self._own())
        if self._trainer is not None and getattr(self.trainer, "datamodule", None) is not None:
            introduce(self.trainer.datamodule, self)  # type: ignore[attr-defined]

    @override
    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self._log_benchmarks("val", "validation")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_benchmarks("test", "test")

    def _log_benchmarks(self, stage: str, split: str) -> None:
        """Scores of the whole split, which every process has: the same on all of them."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is None or not datamodule.has_split(split):
            return
        found = self.scores_alone(datamodule, split, self._original())
        for measure in found.measures:
            self.log(f"{stage}/{measure.name}", measure.value, prog_bar=True, sync_dist=True)
        for name, fact in found.facts.items():
            if fact is not None:
                self.log(f"{stage}/{name}", fact, sync_dist=True)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_cosine(
            self,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_share=self.warmup_share,
            least=self.min_learning_rate_share,
            betas=self.betas,
        )

    @override
    def on_fit_end(self) -> None:
        if self.export_dir is not None and self.trainer.is_global_zero:
            self.export(self.export_dir)

    def export(self, folder: str | Path) -> Path:
        """Save the network with what belongs to it, as its own library reads it; replaces the folder.

        Raises:
            ValueError: If there is no network yet.
        """
        if self.network is None:
            raise ValueError("there is no network to export; fit first, or call configure_model()")
        target = Path(folder).expanduser()
        training = self.network.training
        self.adapter.save(self.network.eval(), target)
        self.network.train(training)
        return target

    def successor(
        self, folder: Path, datamodule: LightningDataModule, limit: int | None = None
    ) -> ImageTextModule:
        """A module around what ``save_as`` has saved; see ``Compressible``."""
        made = type(self)(source=str(folder), benchmarks=self.benchmarks)
        made.configure_model()
        made.inherit_reference(self, datamodule, limit)
        return made

    @torch.no_grad()
    def predicted_names(self, batch: Batch) -> list[str]:
        """Names of the pictures of a batch of ``predict``."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names = datamodule.split(datamodule.predict_split).names
        return [str(names[index]) for index in batch["index"].tolist()]
