"""Text for language models: tokenised once, cut in windows, the same for training and measuring.

sources -> text -> tokenizer -> token cache -> windows -> batches {"input_ids": [b, window + 1]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.loader import EpochSampler, ResumableDataLoader
from datamodules.splits import SplitTexts
from datamodules.token_cache import TokenStream, cached_stream, tokenise, tokenizer_fingerprint
from datamodules.tokenizer_training import SMALLEST_VOCAB, cached_tokenizer
from datamodules.windows import WindowDataset, Windows, hold_out
from fulgurite.models import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PREDICT_WINDOWS = 8  # prompts of one `predict`: enough to read


class TextDataModule(LightningDataModule):
    """Windows of text from files, named corpora or dataset hubs.

    Each split is a path or a list of paths (``.txt``, ``.txt.xz``, ``.jsonl``, ``.parquet``), a name
    (``stdlib``, ``wikitext2``, ``tinystories``) or ``datasets:OWNER/NAME[/CONFIGURATION]``. Where
    ``validation`` is not given it is the corpus's own split, or else the last ``validation_share`` of
    the train windows. Tokens are cached under ``cache_dir`` by the hash of the text and the tokenizer.

    Args:
        train: Text to train on.
        validation: Text to choose and to gate by.
        test: Text for the final figure.
        data_dir: Folder that relative paths start from and that holds the named corpora.
        tokenizer: Folder or hub id of a fast tokenizer; without it, and without
            ``train_tokenizer_vocab``, the network's own is used.
        train_tokenizer_vocab: Fit a byte-level BPE tokenizer of that many pieces to the train text.
        window: Tokens predicted in a window.
        batch_size: Windows in a batch.
        max_windows_validation: Validation windows at most, evenly spaced; ``None`` takes all.
        calibration_windows: Train windows that ``calibration_batches`` gives, evenly spaced.
        validation_share: Share of the train windows held out where there is no validation text.
        text_field: Key or column with the text in ``.jsonl``, ``.parquet`` and datasets.
        cache_dir: Folder for tokens and trained tokenizers.
        num_workers: Processes that make batches; the windows are memory-mapped, so 0 is often fastest.
        seed: Seed of the order of the train windows.

    Raises:
        ValueError: If a number is out of range, or both a tokenizer and a vocabulary size are given.

    Example:
        >>> data = TextDataModule(train="stdlib", train_tokenizer_vocab=1024, window=128)
    """

    def __init__(
        self,
        train: list[str] | str | None = None,
        validation: list[str] | str | None = None,
        test: list[str] | str | None = None,
        data_dir: str | None = None,
        tokenizer: str | None = None,
        train_tokenizer_vocab: int | None = None,
        window: int = 256,
        batch_size: int = 16,
        max_windows_validation: int | None = None,
        calibration_windows: int = 128,
        validation_share: float = 0.05,
        text_field: str = "text",
        cache_dir: str = ".cache/fulgurite",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("window", window),
            ("batch_size", batch_size),
            ("calibration_windows", calibration_windows),
            ("max_windows_validation", 1 if max_windows_validation is None else max_windows_validation),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), got {validation_share}")
        if tokenizer is not None and train_tokenizer_vocab is not None:
            raise ValueError(f"give tokenizer ({tokenizer!r}) or train_tokenizer_vocab, not both")
        if train_tokenizer_vocab is not None and train_tokenizer_vocab < SMALLEST_VOCAB:
            raise ValueError(
                f"train_tokenizer_vocab must be at least {SMALLEST_VOCAB}, got {train_tokenizer_vocab}"
            )
        self.window = window
        self.batch_size = batch_size
        self.max_windows_validation = max_windows_validation
        self.calibration_windows = calibration_windows
        self.validation_share = validation_share
        self.num_workers = num_workers
        self.seed = seed
        self._cache_dir = Path(cache_dir).expanduser()
        self._tokenizer_source = tokenizer
        self._tokenizer_vocab = train_tokenizer_vocab
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._streams: dict[str, TokenStream] = {}
        folder = None if data_dir is None else Path(data_dir).expanduser()
        self._texts = SplitTexts(train, validation, test, folder, text_field)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer given, trained, or taken from the network, loaded on first use.

        Raises:
            ValueError: If there is none of the three.
        """
        if self._tokenizer is None:
            if self._tokenizer_source is not None:
                self._tokenizer = load_tokenizer(self._tokenizer_source)
            elif self._tokenizer_vocab is not None:
                self._tokenizer = cached_tokenizer(
                    self._cache_dir,
                    self._texts.fingerprint("train"),
                    self._tokenizer_vocab,
                    lambda: self._texts.read("train"),
                )
            else:
                module = None if self.trainer is None else self.trainer.lightning_module
                self._tokenizer = getattr(module, "tokenizer", None)
        if self._tokenizer is None:
            raise ValueError(
                "there is no tokenizer: give data.tokenizer (a folder or hub id), "
                "data.train_tokenizer_vocab, or a network that brings its own"
            )
        return self._tokenizer

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a loaded network's tokenizer, unless the settings name one."""
        if self._tokenizer_source is None and self._tokenizer_vocab is None:
            self._tokenizer = tokenizer
            self._streams.clear()

    @property
    def vocab_size(self) -> int:
        """Number of pieces of the tokenizer."""
        return len(self.tokenizer)

    @override
    def prepare_data(self) -> None:
        verb = None if self.trainer is None else self.trainer.state.fn
        for split in self._read_by(verb):
            self._stream(split)  # fills the cache, on one process of each machine
        self._streams.clear()

    @override
    def setup(self, stage: str) -> None:
        for split in self._read_by(stage):
            self._dataset(split)  # a text that is too short is found before the run, not in it

    def _read_by(self, verb: str | None) -> list[str]:
        """Splits that a verb reads; all but test and predict may want the train text too."""
        if verb == TrainerFn.TESTING:
            return ["test"]
        if verb == TrainerFn.PREDICTING:
            return [self._predict_split]
        return [split for split in ("train", "validation") if self.has_split(split)]

    def has_split(self, split: str) -> bool:
        """Whether there is text for ``split``, its own or held out of the train text."""
        return split in self._texts or (split == "validation" and "train" in self._texts)

    @property
    def _predict_split(self) -> str:
        return "test" if "test" in self._texts else "validation"

    def _stream(self, split: str) -> TokenStream:
        if split not in self._streams:
            if split != "test" and "train" in self._texts and "validation" not in self._texts:
                self._streams["train"], self._streams["validation"] = hold_out(
                    self._tokens("train"), self.window, self.validation_share
                )
            else:
                self._streams[split] = self._tokens(split)
        return self._streams[split]

    def _tokens(self, split: str) -> TokenStream:
        parts = (self._texts.fingerprint(split), tokenizer_fingerprint(self.tokenizer))
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return cached_stream(self._cache_dir, key, lambda: tokenise(self._texts.read(split), self.tokenizer))

    def _dataset(self, split: str, limit: int | None = None, with_bytes: bool = False) -> WindowDataset:
        return WindowDataset(self._stream(split), self.window, limit, with_bytes, name=f"{split} text")

    def _limit(self, split: str) -> int | None:
        return self.max_windows_validation if split == "validation" else None

    def evaluation_windows(self, split: str = "validation") -> Windows:
        """All windows of a split with their bytes, as ``val_dataloader`` gives them.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If there is no such split, or its text is too short for one window.
        """
        return self._dataset(split, self._limit(split)).windows()

    def text(self, split: str = "validation") -> str:
        """The text of a split itself.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the split has no text of its own.
        """
        if split not in self._texts:
            raise ValueError(f"there is no {split} text of its own; give data.{split}")
        return self._texts.read(split)

    def data_fingerprint(self, split: str = "validation") -> str:
        """Hash of ``evaluation_windows(split)``: a key for results measured on them."""
        windows = self.evaluation_windows(split)
        return hashlib.sha256(windows.input_ids.numpy().tobytes()).hexdigest()

    def training_windows(self, limit: int | None = None) -> Tensor:
        """Train windows, evenly spaced over the text, ``int64 [n, window]``; the same ones each time."""
        return self._dataset("train", limit).windows().input_ids[:, :-1]

    def describe(self, split: str = "validation") -> str:
        """Where the text of a split comes from, in a few words."""
        if split in self._texts:
            return f"{split} text {self._texts.description(split)}"
        return f"held-out end of {self._texts.description('train')}"

    def calibration_batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches ``{"input_ids": [b, window]}`` of train windows, the same ones each time."""
        dataset = self._dataset("train", self.calibration_windows)
        for start in range(0, len(dataset), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(dataset)))
            # without the last token: a network with learned positions may have room for no more
            yield {"input_ids": torch.stack([dataset[row]["input_ids"][:-1] for row in rows])}

    def unigram(self) -> Tensor:
        """Probability of each piece in the train text, each counted once more than it occurs.

        The chance level of a language model: what can be predicted without reading the context.

        Returns:
            ``float64 [vocab_size]`` with sum 1.
        """
        counts = self._stream("train").counts(self.vocab_size) + 1
        return torch.from_numpy(counts / counts.sum())

    @override
    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        dataset = self._dataset("train")
        return ResumableDataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, self.seed),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # a generator of its own: the loader then draws nothing from the global one
            generator=torch.Generator().manual_seed(self.seed),
        )

    @override
    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._in_order(self._dataset("validation", self._limit("validation"), with_bytes=True))

    @override
    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._in_order(self._dataset("test", with_bytes=True))

    @override
    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._in_order(self._dataset(self._predict_split, _PREDICT_WINDOWS))

    def _in_order(self, dataset: WindowDataset) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )
