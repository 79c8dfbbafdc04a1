"""Where text comes from: files, the standard library's docstrings, or a dataset hub.

    "stdlib" | "wikitext2" | "tinystories" | "datasets:OWNER/NAME" | path -> TextSource -> one str

Several documents become one text, joined by a blank line; files are taken as they are, byte for byte.
The whole text is held in memory once, when it is tokenised; later runs read the token cache.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from datamodules.stdlib_corpus import stdlib_corpus, stdlib_fingerprint

SEPARATOR = "\n\n"
EXTENSIONS = (".txt", ".txt.xz", ".jsonl", ".parquet")

# file names looked for under data_dir, then owner, name and configuration on the hub
_NAMED_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "wikitext2": {
        "train": ("wikitext2_raw/wiki.train.raw.txt", "wikitext2_raw/train_first5k.txt"),
        "validation": ("wikitext2_raw/wiki.valid.raw.txt", "wikitext2_raw/valid.txt"),
        "test": ("wikitext2_raw/wiki.test.raw.txt", "wikitext2_raw/test.txt"),
    },
    "tinystories": {
        "train": ("tinystories/TinyStories-train.txt", "tinystories/train_sample.txt"),
        "validation": ("tinystories/TinyStories-valid.txt", "tinystories/valid_sample.txt"),
    },
}
_NAMED_DATASETS = {
    "wikitext2": "Salesforce/wikitext/wikitext-2-raw-v1",
    "tinystories": "roneneldan/TinyStories",
}
NAMES = ("stdlib", *_NAMED_FILES)


class TextSource(Protocol):
    """A text that can be told from others before it is read."""

    def fingerprint(self) -> str:
        """Hash that changes when the text does."""

    def read(self) -> str:
        """The text.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If its content is not text, or a record has no text field.
        """


@dataclass(frozen=True)
class FileSource:
    """A text file, plain or packed, or a file of records with one text field.

    Args:
        path: File that ends in one of ``EXTENSIONS``.
        field: Key (``.jsonl``) or column (``.parquet``) that holds a record's text.
    """

    path: Path
    field: str = "text"

    def fingerprint(self) -> str:
        """Hash of the file's bytes and the field."""
        digest = hashlib.sha256(self.field.encode())
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def read(self) -> str:
        """The file's text, or its records joined by blank lines."""
        if self.path.name.endswith(".parquet"):
            return SEPARATOR.join(self._parquet())
        raw = self.path.read_bytes()
        if self.path.name.endswith(".xz"):
            try:
                raw = lzma.decompress(raw)
            except lzma.LZMAError as error:
                raise ValueError(f"{self.path}: not an xz file, or cut short ({error})") from error
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path}: byte {error.start} is not UTF-8 text (0x{raw[error.start]:02x}); "
                "re-encode the file as UTF-8"
            ) from error
        return SEPARATOR.join(self._records(text)) if self.path.name.endswith(".jsonl") else text

    def _records(self, text: str) -> Iterator[str]:
        # not splitlines: a record may hold U+2028 and other separators that JSON does not escape
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.path}: line {number} is not JSON ({error})") from error
            if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
                keys = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
                raise ValueError(f"{self.path}: line {number} has no text field {self.field!r}, got {keys}")
            yield record[self.field]

    def _parquet(self) -> Iterator[str]:
        from pyarrow import ArrowInvalid, parquet

        try:
            file = parquet.ParquetFile(self.path)
        except ArrowInvalid as error:
            raise ValueError(f"{self.path}: not a parquet file ({error})") from error
        if self.field not in file.schema_arrow.names:
            raise ValueError(
                f"{self.path}: no column {self.field!r}, got {', '.join(file.schema_arrow.names)}"
            )
        for batch in file.iter_batches(columns=[self.field]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)


@dataclass(frozen=True)
class CorpusSource:
    """One split of the standard library's docstrings, see ``stdlib_corpus``."""

    split: str

    def fingerprint(self) -> str:
        """Hash of the library's files and the split."""
        return f"{stdlib_fingerprint()}-{self.split}"

    def read(self) -> str:
        """The split's docstrings joined by blank lines."""
        return stdlib_corpus()[self.split]


@dataclass(frozen=True)
class HubSource:
    """One split of a dataset that the ``datasets`` library loads by name (network on first use).

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME/CONFIGURATION``.
        split: ``train``, ``validation`` or ``test``.
        field: Column that holds a record's text.
    """

    name: str
    split: str
    field: str = "text"

    def fingerprint(self) -> str:
        """Hash of the text itself: a name on a hub may get other content."""
        return hashlib.sha256(self.read().encode("utf-8", "surrogatepass")).hexdigest()

    def read(self) -> str:
        """The split's records joined by blank lines."""
        import datasets

        owner, _, rest = self.name.partition("/")
        name, _, configuration = rest.partition("/")
        rows = datasets.load_dataset(
            f"{owner}/{name}" if name else owner, configuration or None, split=self.split
        )
        if self.field not in rows.column_names:
            raise ValueError(
                f"datasets:{self.name} has no column {self.field!r}, got {', '.join(rows.column_names)}"
            )
        return SEPARATOR.join(rows[self.field])


def parse_source(spec: str, split: str, data_dir: Path | None, field: str = "text") -> TextSource:
    """Find what a line of a configuration names.

    Args:
        spec: A name of ``NAMES``, ``datasets:OWNER/NAME[/CONFIGURATION]``, or a path.
        split: ``train``, ``validation`` or ``test``; a path is the same for each.
        data_dir: Folder that relative paths start from and that holds the named corpora; without it
            they come from the hub.
        field: Key or column that holds a record's text.

    Raises:
        FileNotFoundError: If a path, or a named corpus in ``data_dir``, does not exist.
        ValueError: If the extension is not known.
    """
    if spec == "stdlib":
        return CorpusSource(split)
    if spec in _NAMED_FILES:
        if data_dir is None:
            return HubSource(_NAMED_DATASETS[spec], split, field)
        if (local := _named_file(spec, split, data_dir)) is None:
            wanted = " or ".join(_NAMED_FILES[spec].get(split, ())) or "no such split"
            raise FileNotFoundError(
                f"{split} text {spec!r} is not in {data_dir} ({wanted}); for the hub's copy give "
                f"datasets:{_NAMED_DATASETS[spec]}"
            )
        return FileSource(local, field)
    if spec.startswith("datasets:"):
        return HubSource(spec.removeprefix("datasets:"), split, field)
    path = Path(spec) if data_dir is None else data_dir / spec  # an absolute spec replaces data_dir
    if not path.name.endswith(EXTENSIONS):
        raise ValueError(
            f"{split} text {spec!r} must end in one of {', '.join(EXTENSIONS)}, start with datasets:, "
            f"or be one of {', '.join(NAMES)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{split} text {path} does not exist (looked from {Path.cwd()})")
    return FileSource(path, field)


def named_split_exists(spec: str, split: str, data_dir: Path | None) -> bool:
    """Whether a named corpus brings its own ``split``, so that none need be held out of ``train``."""
    if spec not in _NAMED_FILES:
        return spec == "stdlib"
    if data_dir is None:
        return split in _NAMED_FILES[spec]
    return _named_file(spec, split, data_dir) is not None


def _named_file(spec: str, split: str, data_dir: Path) -> Path | None:
    paths = (data_dir / name for name in _NAMED_FILES[spec].get(split, ()))
    return next((path for path in paths if path.is_file()), None)
