"""What lies on disk: bytes of a folder, and of each tensor in it.

folder -> files without the tokenizer -> bytes; safetensors headers or pickled tensors -> {tensor: bytes}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "chat_template.jinja",
    }
)
"""Left out for every method: a network's quality does not depend on how its tokenizer is written down."""

UNREAD_FILES = frozenset({"README.md", "quant_log.csv", "recipe.yaml"})
"""What peers write beside the weights and no loader reads: to count it would be unfair to them."""


def folder_bytes(folder: Path) -> int:
    """Bytes of all that holds weights or is needed to read them, in folders within it too."""
    skipped = TOKENIZER_FILES | UNREAD_FILES
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name not in skipped
    )


def tensor_bytes(folder: Path) -> dict[str, int]:
    """Bytes of each stored tensor by its name, from ``*.safetensors`` or, where there are none, from ``*.pt``.

    Raises:
        FileNotFoundError: If there is neither.
    """
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                found[name] = entry["data_offsets"][1] - entry["data_offsets"][0]
    if found:
        return found
    for path in sorted(folder.glob("*.pt")):
        # written by the worker itself a moment ago
        found |= dict(_flat(torch.load(path, map_location="cpu", weights_only=False)))
    if not found:
        raise FileNotFoundError(f"{folder} must hold *.safetensors or *.pt, got neither")
    return found


def _flat(state: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, int]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif hasattr(
            value, "__tensor_flatten__"
        ):  # a subclass that holds what it stands for in other tensors
            yield from _flat(
                {name: getattr(value, name) for name in value.__tensor_flatten__()[0]}, f"{prefix}{key}."
            )
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value.numel() * value.element_size()


def layer_bytes(tensors: Mapping[str, int], layers: Iterable[str]) -> dict[str, int]:
    """Bytes of all that is stored for each layer's weight: codes, scales, zeros, indices; its bias apart.

    Raises:
        KeyError: If nothing is stored for a layer.
    """
    found = dict.fromkeys(layers, 0)
    for name, size in tensors.items():
        for layer in (name[:end] for end in range(len(name)) if name[end] == "."):
            if layer in found and name != f"{layer}.bias":
                found[layer] += size
    lost = [name for name, size in found.items() if not size]
    if lost:
        raise KeyError(f"nothing is stored for {lost[:3]}, among {sorted(tensors)[:5]}")
    return found
