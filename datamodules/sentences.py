"""Pairs of sentences with scores for text encoders: tokenised once, padded, the same for all that read them.

{"sentence1", "sentence2", "score"} a line -> tokenizer -> rows [n, longest] twice, scores [n]
train sentences | lines of a text file     -> rows      -> calibration, refinement
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.loader import EpochSampler, ResumableDataLoader
from datamodules.pairs import PairDataset, SentencePairs, read_pairs
from datamodules.sources import TextSource, parse_source
from fulgurite.models import token_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCE = (16, 200)  # characters
_ENDLESS = 1_000_000  # tokenizers without a limit say 1e30


class SentencesDataModule(LightningDataModule):
    """Pairs of sentences from ``.jsonl`` files, tokenised as the network wants them.

    Each line is an object with two texts and a number. Calibration and refinement read the train sentences,
    or the lines of ``calibration_text`` where it is given.

    Args:
        train: File of pairs to train and calibrate on.
        validation: File of pairs to choose and to gate by.
        test: File of pairs for the final figure.
        data_dir: Folder that relative paths start from.
        calibration_text: Texts whose lines take the place of the train sentences in calibration, refinement and
            distillation: paths or names, as ``TextDataModule`` takes them.
        split_sentences: Cut these texts into sentences of 16 to 200 characters instead of lines.
        with_train_sentences: Read the train sentences beside these texts.
        evaluation_split: Which split a cascade judges by.
        max_score: The highest score that there can be; training aims at cosines of ``score / max_score``.
        max_length: Tokens of a text that are read; the network's own limit by default.
        batch_size: Pairs in a batch; twice as many texts.
        calibration_texts: Texts that ``calibration_batches`` gives at most, evenly spaced.
        fields: Keys of the two texts and of the score.
        seed: Seed of the order of the train pairs.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> data = SentencesDataModule(train="train.jsonl", validation="dev.jsonl", batch_size=16)
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        data_dir: str | None = None,
        calibration_text: list[str] | str | None = None,
        split_sentences: bool = False,
        with_train_sentences: bool = False,
        evaluation_split: Literal["validation", "test"] = "validation",
        max_score: float = 5.0,
        max_length: int | None = None,
        batch_size: int = 16,
        calibration_texts: int = 512,
        fields: tuple[str, str, str] = ("sentence1", "sentence2", "score"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("max_score", max_score),
            ("max_length", 1 if max_length is None else max_length),
            ("batch_size", batch_size),
            ("calibration_texts", calibration_texts),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.evaluation_split = evaluation_split
        self.max_score = max_score
        self.max_length = max_length
        self.batch_size = batch_size
        self.calibration_texts = calibration_texts
        self.fields = (str(fields[0]), str(fields[1]), str(fields[2]))
        self.seed = seed
        self._folder = Path() if data_dir is None else Path(data_dir).expanduser()
        given = {"train": train, "validation": validation, "test": test}
        self._files = {split: self._folder / path for split, path in given.items() if path is not None}
        given_texts = [calibration_text] if isinstance(calibration_text, str) else calibration_text
        self._calibration_texts = list(given_texts or [])
        self._split_sentences = split_sentences
        self._with_train = with_train_sentences or not self._calibration_texts
        self._pairs: dict[str, SentencePairs] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The network's tokenizer.

        Raises:
            ValueError: If there is no network that brings one.
        """
        if self._tokenizer is None and self.trainer is not None:
            self._tokenizer = getattr(self.trainer.lightning_module, "tokenizer", None)
        if self._tokenizer is None:
            raise ValueError("there is no tokenizer: sentences are cut as the network's own tokenizer does")
        return self._tokenizer

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a loaded network's tokenizer."""
        self._tokenizer = tokenizer
        self._pairs.clear()

    @property
    def pad_token(self) -> int:
        """What rows are padded with."""
        return int(self.tokenizer.pad_token_id)

    @override
    def setup(self, stage: str) -> None:
        for split in self._read_by(stage):
            self.pairs(split)  # a file that cannot be read is found before the run, not in it

    def _read_by(self, verb: str | None) -> list[str]:
        if verb == TrainerFn.TESTING:
            return ["test"]
        if verb == TrainerFn.PREDICTING:
            return [self._predict_split]
        return [split for split in ("train", "validation") if self.has_split(split)]

    def has_split(self, split: str) -> bool:
        """Whether there are pairs for ``split``."""
        return split in self._files

    @property
    def _predict_split(self) -> str:
        return "test" if self.has_split("test") else "validation"

    def pairs(self, split: str) -> SentencePairs:
        """All pairs of a split, in the order of the file.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If there is no such split, or the file is not what it should be.
        """
        if split not in self._pairs:
            if split not in self._files:
                raise ValueError(f"there are no {split} pairs; give data.{split}")
            sentences, scores = read_pairs(self._files[split], self.fields)
            # of one width, so that rows of both sides can be put together
            rows = self.rows([one for one, _ in sentences] + [other for _, other in sentences])
            self._pairs[split] = SentencePairs(
                sentences, torch.tensor(scores, dtype=torch.float64), *rows.chunk(2)
            )
        return self._pairs[split]

    def evaluation_pairs(self) -> SentencePairs:
        """What a cascade judges by."""
        return self.pairs(self.evaluation_split)

    def describe(self) -> str:
        """Where ``evaluation_pairs`` come from, in a few words."""
        return f"{self.evaluation_split} pairs {self._files[self.evaluation_split].name}"

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Tokens of texts with the special ones around them, padded to the longest, ``int64 [n, longest]``."""
        tokenizer: Any = self.tokenizer
        limits = [tokenizer.model_max_length, self.max_length or _ENDLESS]
        known = {"truncation": True, "max_length": min(limits)} if min(limits) < _ENDLESS else {}
        tokens = tokenizer(list(texts), **known)["input_ids"]
        return pad_sequence([torch.tensor(row) for row in tokens], True, self.pad_token)

    def training_rows(self, limit: int | None = None) -> Tensor:
        """Train sentences, evenly spaced over each source, ``int64 [n, longest]``; the same ones each time.

        Each source gives as many, as far as it has them.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If there is neither a train file nor a text, or there is nothing in it.
        """
        sources = self._training_texts()
        total = sum(map(len, sources))
        left = total if limit is None else min(limit, total)
        chosen: dict[int, list[str]] = {}
        by_size = sorted(range(len(sources)), key=lambda place: len(sources[place]))
        for done, place in enumerate(
            by_size
        ):  # an equal share for each source; what a small one lacks is the others'
            texts = sources[place]
            kept = min(len(texts), left // (len(sources) - done))
            chosen[place] = [texts[index * len(texts) // kept] for index in range(kept)]
            left -= kept
        return self.rows([text for place in sorted(chosen) for text in chosen[place]])

    def _training_texts(self) -> list[list[str]]:
        """Distinct sentences to calibrate and refine on: each source's, in the order of the file."""
        found: list[list[str]] = []
        if self._with_train and "train" in self._files:
            sentences, _ = read_pairs(self._files["train"], self.fields)
            found.append([sentence for pair in sentences for sentence in pair])
        for given in self._calibration_texts:
            source: TextSource = parse_source(given, "train", self._folder)
            text = source.read()
            found.append(cut_sentences(text) if self._split_sentences else text.split("\n"))
        if not self._calibration_texts and "train" not in self._files:
            raise ValueError(
                "there is no text to calibrate or refine on; give data.train or data.calibration_text"
            )
        seen: dict[str, int] = {}  # text: the first source that has it
        for place, texts in enumerate(found):
            for text in map(str.strip, texts):
                if text:
                    seen.setdefault(text, place)
        if not seen:
            read = [*self._calibration_texts, *([str(self._files["train"])] if self._with_train else [])]
            raise ValueError(f"{', '.join(read)}: expected sentences, found none")
        distinct = [[text for text, first in seen.items() if first == place] for place in range(len(found))]
        return [texts for texts in distinct if texts]

    def calibration_batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches of train sentences of nearly one length, with their masks; the same ones each time."""
        rows = self.training_rows(self.calibration_texts)
        rows = rows[(rows != self.pad_token).sum(1).argsort(stable=True)]
        for batch in torch.split(rows, 2 * self.batch_size):
            yield token_batch(batch, self.pad_token)

    @override
    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        dataset = PairDataset(self.pairs("train"), self.max_score)
        return ResumableDataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, self.seed),
            # a generator of its own: the loader then draws nothing from the global one
            generator=torch.Generator().manual_seed(self.seed),
        )

    @override
    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return self._in_order("validation") if self.has_split("validation") else []

    @override
    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._in_order("test")

    @override
    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._in_order(self._predict_split)

    def _in_order(self, split: str) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(PairDataset(self.pairs(split), self.max_score), batch_size=self.batch_size)


def cut_sentences(text: str) -> list[str]:
    r"""Sentences of a text, those of 16 to 200 characters: shorter ones are mostly headings, longer ones lists.

    Example:
        >>> cut_sentences("It was a bright cold day. Yes! The clocks were\nstriking thirteen.")
        ['It was a bright cold day.', 'The clocks were striking thirteen.']
    """
    found = re.split(r"(?<=[.!?])[\"'\u201d]?\s+", " ".join(text.split()))
    return [sentence for sentence in found if _SENTENCE[0] <= len(sentence) <= _SENTENCE[1]]
