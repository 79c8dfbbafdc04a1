"""Text to tokens, once: tokenised in pieces, written atomically, then only memory-mapped.

    text -> pieces cut before a space -> fast tokenizer -> ids, end offsets -> tokens.npy, token_bytes.npy

``token_bytes[i]`` is how many bytes of UTF-8 token ``i`` adds: the bytes between the end of the token
before it and its own end. Summed over all tokens this is the text's size exactly, also where a
character is split over several tokens (its bytes go to the first) or a tokenizer's offsets leave
out white space (it goes to the next token).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECE = 1 << 16  # characters at a time: bounds the memory, and the library spreads pieces over cores
_BATCH = 16  # pieces handed to the tokenizer at once
_FORMAT = "1"  # change when the files' meaning does: old caches are then not read
# between a letter and " letter" every usual pre-tokenizer cuts anyway, so the tokens do not change
_CUT = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")


@dataclass(frozen=True)
class TokenStream:
    """The tokens of one text.

    Args:
        tokens: Token ids, ``[n]``, ``uint16`` or ``uint32``.
        token_bytes: Bytes of UTF-8 that each token adds, ``[n]``.
    """

    tokens: NDArray[Any]
    token_bytes: NDArray[Any]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> TokenStream:
        return TokenStream(self.tokens[part], self.token_bytes[part])

    def counts(self, vocab_size: int) -> NDArray[np.int64]:
        """How often each token id occurs, ``[vocab_size]``."""
        counts = np.zeros(vocab_size, np.int64)
        for start in range(0, len(self), 1 << 20):  # bincount widens its input to 8 bytes a token
            counts += np.bincount(self.tokens[start : start + (1 << 20)], minlength=vocab_size)
        return counts


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all that decides how a fast tokenizer splits text.

    Raises:
        ValueError: If it is not a fast tokenizer, which alone knows where each token ends.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"tokenizer must be a fast one (tokenizer.json), got {type(tokenizer).__name__}")
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """Tokens of ``text`` without special tokens, and the bytes that each adds."""
    backend: Any = tokenizer.backend_tokenizer
    ids: list[NDArray[np.uint32]] = []
    sizes: list[NDArray[np.uint32]] = []
    pieces = list(_pieces(text))
    for start in range(0, len(pieces), _BATCH):
        batch = pieces[start : start + _BATCH]
        for piece, encoding in zip(batch, backend.encode_batch(batch, add_special_tokens=False), strict=True):
            ids.append(np.array(encoding.ids, np.uint32))
            sizes.append(_bytes_per_token(piece, np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 1]))
    tokens = np.concatenate(ids) if ids else np.empty(0, np.uint32)
    token_bytes = np.concatenate(sizes) if sizes else np.empty(0, np.uint32)
    return TokenStream(_narrow(tokens), _narrow(token_bytes))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + _PIECE)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def _bytes_per_token(piece: str, ends: NDArray[np.int64]) -> NDArray[np.uint32]:
    if not len(ends):
        return np.empty(0, np.uint32)
    code_points = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
    # bytes of UTF-8 before each character, [characters + 1]
    widths = 1 + (code_points > 0x7F) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths, dtype=np.int64)])
    ends = np.maximum.accumulate(ends)
    ends[-1] = len(piece)  # what the tokenizer dropped at the end belongs to the last token
    return np.diff(before[ends], prepend=0).astype(np.uint32)


def _narrow(values: NDArray[np.uint32]) -> NDArray[Any]:
    return values.astype(np.uint16) if values.size == 0 or values.max() < 1 << 16 else values


def cached_stream(folder: Path, key: str, compute: Callable[[], TokenStream]) -> TokenStream:
    """The stream stored under ``key``, computed and written first where it is not there yet.

    The folder of an entry appears with one rename, so a reader sees all of it or nothing; of two
    processes that compute the same entry, one wins and both read it.

    Args:
        folder: Cache folder, made where it is missing.
        key: Hash of everything that decides the tokens.
        compute: Called when there is no entry.

    Returns:
        Arrays mapped from the disk, read-only.
    """
    entry = folder / f"tokens-{_FORMAT}-{key}"
    if not entry.is_dir():
        stream = compute()
        with atomic_folder(entry) as partial:
            np.save(partial / "tokens.npy", stream.tokens, allow_pickle=False)
            np.save(partial / "token_bytes.npy", stream.token_bytes, allow_pickle=False)
    return TokenStream(
        np.load(entry / "tokens.npy", mmap_mode="r", allow_pickle=False),
        np.load(entry / "token_bytes.npy", mmap_mode="r", allow_pickle=False),
    )


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``target`` to fill, and rename it to ``target`` when all went well.

    If ``target`` has appeared meanwhile, it stays as it is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        try:
            partial.replace(target)
        except OSError:
            if not target.is_dir():  # not a lost race: a full disk, missing rights
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
