"""Which text belongs to which split, and a hash of it that needs no tokenizer.

train, validation, test -> lists of sources -> fingerprint | one text
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from datamodules.sources import SEPARATOR, TextSource, named_split_exists, parse_source

SPLITS = ("train", "validation", "test")


class SplitTexts:
    """The texts of the three splits, found and read when they are asked for.

    A named corpus given as ``train`` alone also serves as ``validation`` and ``test`` where it has
    such splits of its own.

    Args:
        train: Path, name, or list of them; see ``sources.parse_source``.
        validation: The same for the text to choose by.
        test: The same for the final figure.
        data_dir: Folder that relative paths start from.
        field: Key or column that holds a record's text.
    """

    def __init__(
        self,
        train: list[str] | str | None,
        validation: list[str] | str | None,
        test: list[str] | str | None,
        data_dir: Path | None = None,
        field: str = "text",
    ) -> None:
        self._data_dir = data_dir
        self._field = field
        self._specs: dict[str, list[str]] = {
            split: [spec] if isinstance(spec, str) else list(spec)
            for split, spec in zip(SPLITS, (train, validation, test), strict=True)
            if spec
        }
        corpus = self._specs.get("train", [])
        for split in ("validation", "test"):
            alone = split not in self._specs and len(corpus) == 1
            if alone and named_split_exists(corpus[0], split, data_dir):
                self._specs[split] = corpus

    def __contains__(self, split: str) -> bool:
        return split in self._specs

    def description(self, split: str) -> str:
        """The split's sources as they were given."""
        return ", ".join(self._specs.get(split, []))

    def fingerprint(self, split: str) -> str:
        """Hash that changes when the split's text does.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the split was not given.
        """
        parts = [source.fingerprint() for source in self._sources(split)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read(self, split: str) -> str:
        """The split's text; several sources are joined by blank lines.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the split was not given, or is empty or no text.
        """
        text = SEPARATOR.join(source.read() for source in self._sources(split))
        if not text.strip():
            raise ValueError(f"{split} text {self.description(split)} is empty")
        return text

    def _sources(self, split: str) -> list[TextSource]:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if split not in self._specs:
            raise ValueError(f"there is no {split} text; give data.{split}")
        return [parse_source(spec, split, self._data_dir, self._field) for spec in self._specs[split]]
