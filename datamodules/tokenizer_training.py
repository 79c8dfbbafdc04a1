"""A byte-level BPE tokenizer fitted to the train text, for networks that start from nothing.

    text -> lines -> byte-level pre-tokens -> merges until ``vocab_size`` -> tokenizer folder

Reference: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016,
https://arxiv.org/abs/1508.07909; on bytes as in Radford et al., "Language Models are Unsupervised
Multitask Learners", 2019, section 2.2: every text can be coded, none is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.token_cache import atomic_folder
from fulgurite.models import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCAB = 257  # 256 bytes and the end of the text


def train_tokenizer(text: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """Fit a byte-level BPE tokenizer; the same text gives the same tokenizer.

    Args:
        text: Train text.
        vocab_size: Pieces at most; a short text gives fewer.

    Returns:
        Fast tokenizer with ``<|endoftext|>`` (id 0) as its only special token.

    Raises:
        ValueError: If ``vocab_size`` has no room for the 256 bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < SMALLEST_VOCAB:
        raise ValueError(f"train_tokenizer_vocab must be at least {SMALLEST_VOCAB}, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def cached_tokenizer(
    folder: Path, key: str, vocab_size: int, read: Callable[[], str]
) -> PreTrainedTokenizerBase:
    """The tokenizer stored under ``key``, trained and written first where it is not there yet.

    Args:
        folder: Cache folder.
        key: Hash of the train text's sources.
        vocab_size: Pieces at most.
        read: Called for the text when there is no entry.
    """
    entry = folder / f"tokenizer-{vocab_size}-{key}"
    if not entry.is_dir():
        tokenizer = train_tokenizer(read(), vocab_size)
        with atomic_folder(entry) as partial:
            tokenizer.save_pretrained(str(partial))
    return load_tokenizer(entry)
