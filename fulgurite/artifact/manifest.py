"""The manifest: what lies in an artefact, and the checks that need no torch. See SPEC.md.

Kept free of torch so that ``fulgurite inspect`` answers at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import (
    DTYPE_BYTES,
    MANIFEST_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    StoredTensor,
    file_sizes,
    num_bytes,
    read_header,
    read_json,
)

FORMAT = "fulgurite-artifact/1"
DELTA_FORMAT = "fulgurite-delta/1"
"""Of an artefact with a base: a reader that knows no deltas must not take them for weights."""
CHECKSUM_DIGITS = 16
"""Hexadecimal digits kept of each SHA-256: 64 bits tell accidents apart and keep the manifest small."""


_REST = (-1,)
"""Shape of a part in the manifest that takes what its weight's other parts leave."""


@dataclass(frozen=True)
class Part:
    """One packed part of a weight; ``shared`` names the stored tensor it lies in, if not the weight's own."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shared: str | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the part."""
        return num_bytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Layout:
    """How the bytes of a weight are to be read; weights of one shape and codec have one in common."""

    codec: str
    shape: tuple[int, ...]
    dtype: str
    meta: Mapping[str, bool | int | float | str]
    parts: tuple[Part, ...]

    @property
    def own_parts(self) -> tuple[Part, ...]:
        """The parts that lie in the weight's own stored tensor, in their order there."""
        return tuple(part for part in self.parts if part.shared is None)

    @property
    def native(self) -> bool:
        """Whether the weight is stored as it is: one part, of its own shape and not of bytes that stand for it."""
        if len(self.parts) != 1 or self.parts[0].shared is not None:
            return False
        return self.codec == "raw" or (self.parts[0].shape == self.shape and self.parts[0].dtype != "U8")

    def opened(self) -> Layout:
        """The layout without the length of its last own part, where that is a stream of bytes.

        Streams differ in length and little else: so weights of one shape have one layout whatever they hold.
        """
        own = self.own_parts
        if self.native or not own or own[-1].dtype != "U8" or len(own[-1].shape) != 1:
            return self
        return self._with_rest(own[-1], _REST)

    def closed(self, stored: int) -> Layout:
        """The layout of a weight with so many stored bytes: the rest of them is the last part's.

        Raises:
            ValueError: If the other parts take more.
        """
        rest = [part for part in self.own_parts if part.shape == _REST]
        if not rest:
            return self
        length = stored - sum(part.num_bytes for part in self.own_parts if part is not rest[0])
        if length < 0:
            raise ValueError(f"{stored} bytes are fewer than the parts before {rest[0].name!r} take")
        return self._with_rest(rest[0], (length,))

    def _with_rest(self, part: Part, shape: tuple[int, ...]) -> Layout:
        parts = tuple(replace(each, shape=shape) if each is part else each for each in self.parts)
        return replace(self, parts=parts)

    def to_json(self) -> dict[str, Any]:
        """The layout as it stands in the manifest."""
        parts = [
            [part.name, part.dtype, list(part.shape), *([part.shared] if part.shared else [])]
            for part in self.parts
        ]
        return {
            "codec": self.codec,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "meta": dict(self.meta),
            "parts": parts,
        }


@dataclass(frozen=True)
class BaseReference:
    """The artefact that a delta's weights are to be added to: its path as it was given, and its manifest's checksum."""

    path: str
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """What a folder says it holds, and where each byte of it lies."""

    folder: Path
    model_class: str
    created_by: str
    aliases: Mapping[str, str]
    layouts: tuple[Layout, ...]
    weights: Mapping[str, tuple[int, str]]
    shared: Mapping[str, str]
    files: Mapping[str, str]
    stored: Mapping[str, StoredTensor]
    base: BaseReference | None = None

    @property
    def format(self) -> str:
        """What the manifest says it is."""
        return FORMAT if self.base is None else DELTA_FORMAT

    @property
    def num_weights(self) -> int:
        """Number of weights of the network, tied ones once."""
        return sum(math.prod(self.layout(name).shape) for name in self.weights)

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of all that running the network needs, the tokenizer apart."""
        return sum(size for name, size in file_sizes(self.folder).items() if name not in TOKENIZER_FILES)

    @property
    def tokenizer_bytes(self) -> int:
        """Bytes on disk of the tokenizer's files."""
        return sum(size for name, size in file_sizes(self.folder).items() if name in TOKENIZER_FILES)

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the whole folder, the tokenizer apart."""
        return 8 * self.num_bytes / self.num_weights

    def layout(self, name: str) -> Layout:
        """How the weight is stored."""
        stored = self.stored[name]
        return self.layouts[self.weights[name][0]].closed(stored.stop - stored.start)

    def bytes_by_part(self) -> dict[str, int]:
        """Where the bytes are: weights, codebooks, tables (headers and indices of the file), manifest."""
        codebooks = sum(
            part.num_bytes
            for name in self.weights
            for part in self.layout(name).own_parts
            if "codebook" in part.name
        )
        shared_codebooks = {
            part.shared
            for name in self.weights
            for part in self.layout(name).parts
            if "codebook" in part.name
        }
        codebooks += sum(
            self.stored[name].stop - self.stored[name].start for name in shared_codebooks if name
        )
        payload = sum(tensor.stop - tensor.start for tensor in self.stored.values())
        weights_file = (self.folder / WEIGHTS_FILE).stat().st_size
        return {
            "weights": payload - codebooks,
            "codebooks": codebooks,
            "tables": weights_file - payload,
            "manifest": self.num_bytes - weights_file,
        }

    def verify(self) -> None:
        """Compare every checksum with the bytes on disk.

        Raises:
            ArtifactError: If a weight or file is not what the manifest says.
        """
        path = self.folder / WEIGHTS_FILE
        with path.open("rb") as file:
            for name, expected in self._expected_checksums():
                tensor = self.stored[name]
                file.seek(tensor.start)
                data = file.read(tensor.stop - tensor.start)
                layout = self.layouts[self.weights[name][0]] if name in self.weights else None
                _compare(path, f"weight {name!r}", checksum(data, layout), expected)
        for name, expected in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise ArtifactError(f"{path}: no such file, the manifest lists it")
            _compare(path, "the file", checksum(path.read_bytes()), expected)

    def _expected_checksums(self) -> Iterator[tuple[str, str]]:
        for name, (_, expected) in self.weights.items():
            yield name, expected
        yield from self.shared.items()


def checksum(data: bytes, layout: Layout | None = None) -> str:
    """Checksum of stored bytes and of how they are to be read."""
    digest = hashlib.sha256()
    if layout is not None:
        digest.update(json.dumps(layout.to_json(), sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()[:CHECKSUM_DIGITS]


def _compare(path: Path, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise ArtifactError(
            f"{path}: {what} has checksum {found}, the manifest says {expected}: "
            "the file was altered or cut short"
        )


def read_manifest(folder: Path | str) -> Manifest:
    """Read an artefact's manifest and hold it against the weights file's header; no weight is read.

    Raises:
        ArtifactError: If a file is missing, malformed, of another format version, or if the manifest
            and the weights file disagree.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; expected an artefact with {MANIFEST_FILE}")
    raw = read_json(path)
    if raw.get("format") not in (FORMAT, DELTA_FORMAT):
        raise ArtifactError(
            f"{path}: expected format {FORMAT!r} or {DELTA_FORMAT!r}, got {raw.get('format')!r}"
        )
    stored = read_header(folder / WEIGHTS_FILE)
    try:
        manifest = Manifest(
            folder=folder,
            model_class=str(raw["model_class"]),
            created_by=str(raw["created_by"]),
            aliases=_strings(raw["aliases"]),
            layouts=tuple(_layout(entry) for entry in _list(raw["layouts"])),
            weights={name: (int(entry[0]), str(entry[1])) for name, entry in _items(raw["weights"])},
            shared=_strings(raw["shared"]),
            files=_strings(raw["files"]),
            stored=stored,
            base=None if raw["format"] == FORMAT else _base(raw["base"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(f"{path}: malformed manifest: {type(error).__name__}: {error}") from error
    _check_agreement(path, manifest)
    return manifest


def _check_agreement(path: Path, manifest: Manifest) -> None:
    if not manifest.weights:
        raise ArtifactError(f"{path}: lists no weight")
    listed = {*manifest.weights, *manifest.shared}
    if missing := sorted(listed - set(manifest.stored)):
        raise ArtifactError(f"{path}: lists {missing[0]!r}, which {WEIGHTS_FILE} does not hold")
    if extra := sorted(set(manifest.stored) - listed):
        raise ArtifactError(f"{path}: does not list {extra[0]!r}, which {WEIGHTS_FILE} holds")
    for alias, target in manifest.aliases.items():
        if target not in manifest.weights:
            raise ArtifactError(f"{path}: {alias!r} is tied to {target!r}, which is not a weight of it")
    for name in manifest.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{path}: file {name!r} lies outside the folder")
    for name, (index, _) in manifest.weights.items():
        if not 0 <= index < len(manifest.layouts):
            raise ArtifactError(
                f"{path}: weight {name!r} has layout {index}, there are {len(manifest.layouts)}"
            )
        tensor = manifest.stored[name]
        try:
            layout = manifest.layout(name)
        except ValueError as error:
            raise ArtifactError(f"{path}: weight {name!r}: {error}") from error
        for part in layout.parts:
            if part.shared is not None:
                _check_size(path, name, part.num_bytes, manifest.stored.get(part.shared))
        _check_size(path, name, sum(part.num_bytes for part in layout.own_parts), tensor)


def _check_size(path: Path, name: str, expected: int, tensor: StoredTensor | None) -> None:
    found = -1 if tensor is None else tensor.stop - tensor.start
    if found != expected:
        raise ArtifactError(
            f"{path}: weight {name!r} needs {expected} bytes, {WEIGHTS_FILE} has {found} for it"
        )


def _base(entry: Any) -> BaseReference:
    return BaseReference(str(entry["path"]), str(entry["checksum"]))


def _layout(entry: Any) -> Layout:
    parts = tuple(
        Part(
            str(part[0]),
            str(part[1]),
            tuple(int(n) for n in part[2]),
            str(part[3]) if len(part) > 3 else None,
        )
        for part in entry["parts"]
    )
    last = [part for part in parts if part.shared is None][-1:]
    for part in parts:
        rest = [part] == last and part.shape == _REST and part.dtype == "U8"
        if part.dtype not in DTYPE_BYTES or (min(part.shape, default=0) < 0 and not rest):
            raise ValueError(f"part {part.name!r} has dtype {part.dtype!r} and shape {list(part.shape)}")
    shape = tuple(int(n) for n in entry["shape"])
    if any(n < 0 for n in shape):
        raise ValueError(f"shape must not be negative, got {list(shape)}")
    layout = Layout(str(entry["codec"]), shape, str(entry["dtype"]), dict(entry["meta"]), parts)
    if layout.native and parts[0].shape == _REST:
        raise ValueError(
            f"part {parts[0].name!r} is a whole weight and must have its shape, has {list(_REST)}"
        )
    return layout


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return [(str(key), entry) for key, entry in value.items()]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value


def _strings(value: Any) -> dict[str, str]:
    return {key: str(entry) for key, entry in _items(value)}
