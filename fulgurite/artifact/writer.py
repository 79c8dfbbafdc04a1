"""Write an artefact: encoded weights, a network's own files, and a manifest over them.

{name: Encoded} -> parts deduplicated -> model.safetensors + fulgurite.json
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fulgurite._version import __version__
from fulgurite.artifact.files import MANIFEST_FILE, WEIGHTS_FILE, write_folder
from fulgurite.artifact.manifest import (
    DELTA_FORMAT,
    FORMAT,
    BaseReference,
    Layout,
    Manifest,
    Part,
    checksum,
    read_manifest,
)
from fulgurite.codecs import Encoded

_SAFETENSORS_NAMES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.float64: "F64",
}


def write_artifact(
    folder: Path | str,
    weights: Mapping[str, Encoded],
    *,
    model_class: str,
    aliases: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    base: BaseReference | None = None,
) -> Manifest:
    """Write a folder that ``fulgurite.load`` and transformers read; all of it or nothing.

    Parts that are equal to the byte in several weights, such as a shared codebook, are stored once.
    The same arguments give the same bytes.

    Args:
        folder: Where the artefact goes; replaced if it exists.
        weights: Every entry of the network's state by name, tied ones once.
        model_class: Name of the network's class.
        aliases: Tied names and the name each is stored under.
        files: Further files by name: configuration, tokenizer.
        base: The artefact that the weights are to be added to; what is ``raw`` stands in the place of the base's.

    Returns:
        The manifest, read back from disk.

    Raises:
        OSError: If it cannot be written; what was in ``folder`` is then untouched.
    """
    folder = Path(folder)
    shared = _shared_parts(weights)
    layouts: dict[str, tuple[int, Layout]] = {}
    stored: dict[str, Tensor] = {
        name: _as_bytes(part)
        for name, part in sorted(dict((key, part) for key, part in shared.values()).items())
    }
    entries: dict[str, list[object]] = {}
    for name, encoded in weights.items():
        layout = _layout(encoded, shared)
        index, layout = layouts.setdefault(json.dumps(layout.to_json()), (len(layouts), layout))
        own = [encoded.tensors[part.name] for part in layout.own_parts]
        if layout.native:
            stored[name] = own[0].cpu().contiguous()
        else:  # the empty one: a weight may lie in shared parts altogether
            nothing = torch.empty(0, dtype=torch.uint8)
            stored[name] = torch.cat([nothing, *(_as_bytes(part) for part in own)])
        entries[name] = [index, checksum(_as_bytes(stored[name]).numpy().tobytes(), layout)]
    manifest: dict[str, object] = {
        "format": FORMAT if base is None else DELTA_FORMAT,
        "created_by": f"fulgurite {__version__}",
        "model_class": model_class,
        "aliases": dict(aliases or {}),
        "layouts": [layout.to_json() for _, layout in layouts.values()],
        "weights": entries,
        "shared": {
            key: checksum(stored[key].numpy().tobytes()) for key in sorted({k for k, _ in shared.values()})
        },
        "files": {name: checksum(data) for name, data in sorted((files or {}).items())},
    }
    if base is not None:
        manifest["base"] = {"path": base.path, "checksum": base.checksum}

    def fill(fresh: Path) -> None:
        save_file(stored, fresh / WEIGHTS_FILE, metadata={"format": "pt"})
        for name, data in (files or {}).items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(data)
        (fresh / MANIFEST_FILE).write_text(json.dumps(manifest, separators=(",", ":")))
        read_manifest(fresh).verify()  # what cannot be read back must not replace what could

    write_folder(folder, fill)
    return read_manifest(folder)


def _shared_parts(weights: Mapping[str, Encoded]) -> dict[str, tuple[str, Tensor]]:
    """Parts that several weights have in common: their checksum -> (stored name, part)."""
    found: Counter[str] = Counter()
    parts: dict[str, Tensor] = {}
    for encoded in weights.values():
        if len(encoded.tensors) < 2:
            continue  # a native weight stays under its own name, readable by any tool
        for key in {_part_key(part) for part in encoded.tensors.values() if part.numel() > 16}:
            found[key] += 1
        parts.update({_part_key(part): part for part in encoded.tensors.values()})
    # insertion order is the order of the weights, so the names do not depend on a hash seed
    repeated = [key for key in parts if found[key] > 1]
    return {key: (f"fulgurite.shared.{index}", parts[key]) for index, key in enumerate(repeated)}


def _part_key(part: Tensor) -> str:
    return f"{part.dtype}{tuple(part.shape)}{checksum(_as_bytes(part).numpy().tobytes())}"


def _layout(encoded: Encoded, shared: Mapping[str, tuple[str, Tensor]]) -> Layout:
    parts = []
    for name, part in encoded.tensors.items():
        home = shared.get(_part_key(part)) if len(encoded.tensors) > 1 else None
        parts.append(
            Part(
                name, _SAFETENSORS_NAMES[part.dtype], tuple(part.shape), home[0] if home is not None else None
            )
        )
    return Layout(encoded.codec, encoded.shape, encoded.dtype, dict(encoded.meta), tuple(parts)).opened()


def _as_bytes(part: Tensor) -> Tensor:
    return part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
