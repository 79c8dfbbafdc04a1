"""Pairs of sentences with scores: a file of them, and what a data loader sees.

{"sentence1", "sentence2", "score"} a line -> sentences, scores -> SentencePairs with tokens -> PairDataset
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override


@dataclass(frozen=True)
class SentencePairs:
    """Pairs of sentences, how alike they are said to be, and their tokens.

    Args:
        sentences: The two sentences of each pair.
        scores: ``float64 [n]``, in the file's own unit.
        first: Padded tokens of the first sentences, ``int64 [n, longest]``.
        second: Those of the second.
    """

    sentences: Sequence[tuple[str, str]]
    scores: Tensor
    first: Tensor
    second: Tensor

    def __len__(self) -> int:
        return len(self.scores)


class PairDataset(Dataset[dict[str, Tensor]]):
    """Pairs one by one: ``first`` and ``second`` ``[longest]``, and ``score`` as a share of the highest.

    Args:
        pairs: The pairs.
        max_score: The highest score that there can be.
    """

    def __init__(self, pairs: SentencePairs, max_score: float) -> None:
        self._pairs = pairs
        self._scores = (pairs.scores / max_score).float()

    def __len__(self) -> int:
        return len(self._pairs)

    @override
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "first": self._pairs.first[index],
            "second": self._pairs.second[index],
            "score": self._scores[index],
        }


def read_pairs(path: Path, fields: tuple[str, str, str]) -> tuple[list[tuple[str, str]], list[float]]:
    """Sentences and scores of a ``.jsonl`` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no object with two texts and a finite number, or there is none.
    """
    sentences: list[tuple[str, str]] = []
    scores: list[float] = []
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON ({error})") from error
        one, other, score = (
            [record.get(field) for field in fields] if isinstance(record, dict) else [None] * 3
        )
        if not (isinstance(one, str) and isinstance(other, str) and _is_number(score)):
            found = json.dumps(record, ensure_ascii=False)
            raise ValueError(
                f"{path}: line {number} must have texts {fields[0]!r} and {fields[1]!r} and a number "
                f"{fields[2]!r}, got {found[:80]}"
            )
        sentences.append((one, other))
        scores.append(float(score))
    if not sentences:
        raise ValueError(f"{path}: expected pairs of sentences, a JSON object a line, found none")
    return sentences, scores


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text; re-encode the file") from error
