r"""Tokenizers for captions, learned from them.

captions -> lower case -> byte-level BPE  -> <|startoftext|> ... <|endoftext|>   (CLIP's manner)
                       -> WordPiece       -> [CLS] ... [SEP]                     (BLIP's manner)

Both say any text, and are tokenizers of transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CLIP = {"pad_token": "<|pad|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
_BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[DEC]",
}


def train_caption_tokenizer(
    texts: Sequence[str], vocab_size: int, kind: Literal["clip", "bert"]
) -> PreTrainedTokenizerFast:
    """Learn a tokenizer from captions; the same texts give the same tokenizer.

    Args:
        texts: What to learn from.
        vocab_size: Tokens at most, the special ones included.
        kind: ``clip``: bytes, so that any text can be said, a word with the space before it, and an end token of
            the highest id, which CLIP finds a text's end by. (CLIP's own tokenizer marks the ends of words, which
            takes each byte twice.) ``bert``: pieces of words; a word with a letter that was never seen is ``[UNK]``.

    Returns:
        The tokenizer; it adds the special tokens and pads at the end.

    Raises:
        ValueError: If there is no text, or ``vocab_size`` has no room for what any text needs.

    Example:
        >>> tokenizer = train_caption_tokenizer(["a red square"], 300, "clip")
        >>> tokenizer.decode(tokenizer("A red cat").input_ids, skip_special_tokens=True).strip()
        'a red cat'
    """
    if not texts:
        raise ValueError("a tokenizer is learned from texts, got none")
    if kind not in ("clip", "bert"):
        raise ValueError(f"kind must be clip or bert, got {kind!r}")
    return _byte_bpe(texts, vocab_size) if kind == "clip" else _word_piece(texts, vocab_size)


def _byte_bpe(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    least = 256 + len(_CLIP)
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least} (bytes and special tokens), got {vocab_size}")
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_CLIP),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(list(_CLIP.values()))  # behind all others: the end's id is the highest
    start, end = _CLIP["bos_token"], _CLIP["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (start, end)],
    )
    return _wrapped(backend, _CLIP)


def _word_piece(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if vocab_size < 2 * len(_BERT):
        raise ValueError(f"vocab_size must be at least {2 * len(_BERT)}, got {vocab_size}")
    backend = Tokenizer(models.WordPiece(unk_token=_BERT["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters, within = _letters(backend, texts, most=(vocab_size - len(_BERT)) // 2)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        # the trainer numbers letters within words as it meets them, in another order each time, and chooses by
        # number among pieces that are as frequent: here they have their numbers beforehand
        special_tokens=[*_BERT.values(), *within],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    trained = Tokenizer(models.WordPiece(backend.get_vocab(), unk_token=_BERT["unk_token"]))
    trained.normalizer, trained.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained.decoder = decoders.WordPiece()
    trained.add_special_tokens(list(_BERT.values()))
    start, end = _BERT["cls_token"], _BERT["sep_token"]
    trained.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, trained.token_to_id(token)) for token in (start, end)],
    )
    return _wrapped(trained, _BERT)


def _letters(backend: Any, texts: Sequence[str], most: int) -> tuple[list[str], list[str]]:
    """The most frequent letters of some texts, and as WordPiece writes them within words; both in order."""
    counts: Counter[str] = Counter()
    within: set[str] = set()
    for text in texts:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            counts.update(word)
            within.update(word[1:])
    kept = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:most])
    return kept, [f"##{letter}" for letter in kept if letter in within]


def _wrapped(backend: Any, special: dict[str, str]) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    wrapped: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = wrapped(
        tokenizer_object=backend,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
    return tokenizer
