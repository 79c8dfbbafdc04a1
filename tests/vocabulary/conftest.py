"""Small tokenizers of every kind, trained on a little English, and texts that are hard on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("byte-level", "byte-fallback", "characters", "wordpiece", "unigram", "unigram-bytes")

HARD_TEXTS = (
    "",
    " ",
    "two  spaces, a tab\tand\r\nlines\n\n",
    "caf\u00e9 na\u00efve \ufb01 \u03a9",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467",  # the second is five characters
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u65e5\u672c\u8a9e",
    "\x00\x01\x1f\x7f",
    "<0x41> \u2581under\u2581score ##ing </w>",
    "argparse's ArgumentParser(description=None) isn't unknown!!!",
)

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(lines: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """As GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer, {"eos_token": "<|end|>", "pad_token": "<|end|>"}


def byte_fallback(lines: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """As Llama 2: pieces of SentencePiece, and bytes for what has none."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    state = without_added(tokenizer, BYTES)
    state.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    state.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return state, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def characters(lines: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """As the first GPT: characters, with a mark at the end of a word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer, {"unk_token": "<unk>"}


def wordpiece(lines: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """As BERT; the unknown token is not the first, and one was added beside the model."""
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=list(names.values()), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_tokens(["\U0001f600"])
    return tokenizer, names


def unigram(lines: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """As T5, with its further tokens after the model's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<extra_id_0>", "<extra_id_1>"])
    return tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def unigram_bytes(lines: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """Unigram with byte pieces in front, as SentencePiece writes it."""
    trained, names = unigram(lines)
    pieces = [tuple(piece) for piece in json_of(trained)["model"]["vocab"]]
    with_bytes = [*pieces[:3], *((byte, 0.0) for byte in BYTES), *pieces[3:]]
    tokenizer = Tokenizer(models.Unigram(with_bytes, unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer, names


def json_of(tokenizer: Tokenizer) -> dict[str, Any]:
    import json

    state: dict[str, Any] = json.loads(tokenizer.to_str())
    return state


def without_added(tokenizer: Tokenizer, pieces: list[str]) -> Tokenizer:
    """Leave pieces to the model that a trainer made special tokens of."""
    import json

    state = json_of(tokenizer)
    state["added_tokens"] = [added for added in state["added_tokens"] if added["content"] not in pieces]
    return Tokenizer.from_str(json.dumps(state))


@pytest.fixture(scope="session")
def lines(small_text: Path) -> list[str]:
    return small_text.read_text(encoding="utf-8").splitlines(keepends=True)[:400]


@pytest.fixture(scope="session")
def tokenizer_of(lines: list[str]) -> Callable[[str], PreTrainedTokenizerFast]:
    """Gives the tokenizer of a kind, trained once."""
    makers = {
        "byte-level": byte_level,
        "byte-fallback": byte_fallback,
        "characters": characters,
        "wordpiece": wordpiece,
        "unigram": unigram,
        "unigram-bytes": unigram_bytes,
    }
    made: dict[str, PreTrainedTokenizerFast] = {}

    def make(kind: str) -> PreTrainedTokenizerFast:
        if kind not in made:
            backend, names = makers[kind](lines)
            made[kind] = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=77, **names)
        return made[kind]

    return make


@pytest.fixture(params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> PreTrainedTokenizerFast:
    return tokenizer_of(request.param)


@pytest.fixture(scope="session")
def hard_texts() -> tuple[str, ...]:
    return HARD_TEXTS
