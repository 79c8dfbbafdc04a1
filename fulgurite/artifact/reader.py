"""Read the weights of an artefact: bytes to ``Encoded`` to tensors.

Peak memory is one weight: each is read from its place in the file when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fulgurite.artifact.base import find_base, over
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import MANIFEST_FILE, WEIGHTS_FILE
from fulgurite.artifact.manifest import Layout, Manifest, read_manifest
from fulgurite.codecs import DTYPES, Encoded, decode

_TORCH_DTYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
RAW = "raw"
"""Codec name of what is no weight, such as an integer buffer: stored as it is."""


class Artifact:
    """An artefact folder, opened for reading; with it its base, if it is a delta.

    Args:
        folder: The artefact.
        verify: Compare all checksums first; costs one pass over the file.

    Raises:
        ArtifactError: If the folder is no artefact, or an altered one, or its base is not found.

    Example:
        ``Artifact("runs/books6m/artifact").decode("model.norm.weight")``
    """

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        self.manifest: Manifest = read_manifest(folder)
        if verify:
            self.manifest.verify()
        self._shared: dict[str, Tensor] = {}
        self.base: Artifact | None = None
        if self.manifest.base is not None:
            found = find_base(self.manifest)
            with over(None):  # which may be a delta itself
                self.base = Artifact(found, verify=verify)
            _check_base(self.manifest, self.base.manifest)

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.weights)

    def encoded(self, name: str) -> Encoded:
        """The weight as it lies in the file."""
        if name not in self.manifest.weights:
            raise ArtifactError(f"{self.manifest.folder}: holds no weight {name!r}")
        return self.unpack(name, self._read(name))

    def unpack(self, name: str, packed: Tensor) -> Encoded:
        """Cut a weight's own stored tensor into its parts.

        Args:
            name: Which weight it is.
            packed: The stored tensor, on any device; bytes, or the weight itself if stored natively.
        """
        layout = self.manifest.layout(name)
        parts: dict[str, Tensor] = {}
        if layout.native:
            parts[layout.parts[0].name] = packed
        else:
            offset = 0
            for part in layout.parts:
                if part.shared is not None:
                    data = self._shared_part(part.shared).to(packed.device)
                else:
                    data = packed[offset : offset + part.num_bytes]
                    offset += part.num_bytes
                # clone: a slice at an odd byte cannot be viewed as a wider type
                parts[part.name] = data.clone().view(_TORCH_DTYPES[part.dtype]).reshape(part.shape)
        return Encoded(layout.codec, layout.shape, layout.dtype, parts, layout.meta)

    def decode(self, name: str) -> Tensor:
        """The weight as it is stored here, in its original shape and dtype: of a delta, what is to be added."""
        return self.decode_packed(name, self.encoded(name))

    def decode_packed(self, name: str, encoded: Encoded) -> Tensor:
        """Decode what ``unpack`` or ``encoded`` gives of an untrusted file.

        Raises:
            ArtifactError: If the parts do not fit the shape, whatever the codec says of it.
        """
        layout = self.manifest.layout(name)
        try:
            # of a delta, the shape is that of a base whose bytes stand for it
            _check_bounds(layout, bounded=self.base is not None)
            if encoded.codec == RAW:
                return next(iter(encoded.tensors.values())).reshape(encoded.shape)
            return decode(encoded)
        except (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, MemoryError) as error:
            path = self.manifest.folder / WEIGHTS_FILE
            raise ArtifactError(
                f"{path}: weight {name!r} ({encoded.codec}) cannot be decoded: {error}"
            ) from error

    def whole(self, name: str) -> Tensor:
        """The network's weight: of a delta, with the base's added, in the base's dtype."""
        value = self.decode(name)
        if self.base is None or self.manifest.layout(name).codec == RAW:
            return value
        below = self.base.whole(name)
        return (below.float() + value.float()).to(below.dtype)

    def _read(self, name: str) -> Tensor:
        stored = self.manifest.stored[name]
        path = self.manifest.folder / WEIGHTS_FILE
        with path.open("rb") as file:
            file.seek(stored.start)
            data = bytearray(file.read(stored.stop - stored.start))
        if len(data) != stored.stop - stored.start:
            raise ArtifactError(f"{path}: ends inside {name!r}, at byte {stored.start + len(data)}")
        if not data:
            return torch.empty(stored.shape, dtype=_TORCH_DTYPES[stored.dtype])
        return torch.frombuffer(data, dtype=_TORCH_DTYPES[stored.dtype]).reshape(stored.shape)

    def _shared_part(self, name: str) -> Tensor:
        if name not in self._shared:
            self._shared[name] = self._read(name)
        return self._shared[name]


_MOST_WEIGHTS_PER_BYTE = 1 << 16


def _check_base(delta: Manifest, base: Manifest) -> None:
    """A delta and its base are of one kind of network, weight by weight."""
    where = f"{delta.folder / MANIFEST_FILE}: over {base.folder}"
    if delta.model_class != base.model_class:
        raise ArtifactError(f"{where}: a delta of a {delta.model_class}, the base is a {base.model_class}")
    if unlike := sorted(set(delta.weights) ^ set(base.weights)):
        raise ArtifactError(f"{where}: {unlike[0]!r} and {len(unlike) - 1} more are in one of the two only")
    for name in delta.weights:
        found, expected = delta.layout(name).shape, base.layout(name).shape
        if found != expected:
            raise ArtifactError(f"{where}: {name!r} has shape {list(found)}, the base's is {list(expected)}")


def _check_bounds(layout: Layout, *, bounded: bool) -> None:
    """Refuse a shape that its bytes could never stand for, before anything of that size is allocated."""
    stored = sum(part.num_bytes for part in layout.parts)
    if not bounded and math.prod(layout.shape) > _MOST_WEIGHTS_PER_BYTE * max(stored, 1):
        raise ValueError(f"shape {list(layout.shape)} is too large for {stored} bytes")
    if layout.codec != RAW and math.prod(layout.shape) == 0:
        raise ValueError(f"shape {list(layout.shape)} has no element")
    if layout.codec != RAW and layout.dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {layout.dtype!r}")
