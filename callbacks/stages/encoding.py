"""Encode a network's weights: spread over ranks, each finished one kept on disk.

Ranks exchange what they made through files in the run's folder (which all ranks see, as they do the
artefact): the file is at the same time what a restarted run goes on from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from callbacks.stages.selection import share_out
from fulgurite.artifact.encoded_file import load_encoded, save_encoded
from fulgurite.artifact.errors import ArtifactError
from fulgurite.codecs import Codec, Encoded, decode, nmse


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight."""

    weight: str
    codec: str
    num_bytes: int
    bits_per_weight: float
    nmse: float


Progress = Callable[[str, Encoded], None]


class Hessians(Mapping[str, Tensor]):
    """Second moments in a safetensors file, read one at a time."""

    def __init__(self, path: Path | None) -> None:
        opened: Any = None if path is None else safe_open(path, framework="pt")
        self._file = opened
        self._names: list[str] = [] if opened is None else sorted(opened.keys())

    def __getitem__(self, name: str) -> Tensor:
        if self._file is None or name not in self._names:
            raise KeyError(name)
        hessian: Tensor = self._file.get_tensor(name)
        return hessian

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def encode_weights(
    weights: Mapping[str, Tensor],
    codecs: Mapping[str, Codec],
    hessians: Mapping[str, Tensor],
    folder: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Encode this rank's share of the weights into ``folder``, one file a weight.

    A weight whose file is there already is not encoded again.

    Args:
        weights: What to encode, by name.
        codecs: The codec of each, after ``bind``.
        hessians: Second moments by name; a weight may have none.
        folder: Of this try; the same for all ranks.
        rank: This process.
        world_size: Number of processes.
        device: Where to encode.
        progress: Called with the name and the result after each weight.

    Raises:
        ValueError: If a weight has NaN or infinity; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    share = share_out({name: float(weights[name].numel()) for name in codecs}, world_size)[rank]
    for name in [name for name in codecs if name in share]:  # the network's order reads best in the progress
        path = encoded_path(folder, name)
        if (encoded := _finished(path)) is None:
            hessian = hessians.get(name)
            try:
                encoded = codecs[name].encode(
                    weights[name].to(device), None if hessian is None else hessian.to(device)
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            encoded = encoded.to("cpu")
            save_encoded(path, encoded)
        if progress is not None:
            progress(name, encoded)


def read_encoded(folder: Path, names: list[str]) -> dict[str, Encoded]:
    """What all ranks have encoded."""
    return {name: load_encoded(encoded_path(folder, name)) for name in names}


def encoded_path(folder: Path, name: str) -> Path:
    """File of one encoded weight."""
    return folder / f"{name}.safetensors"


def report_layers(weights: Mapping[str, Tensor], encoded: Mapping[str, Encoded]) -> list[LayerReport]:
    """Bytes and error of each weight, against what it was made from."""
    return [
        LayerReport(
            name,
            entry.codec,
            entry.num_bytes,
            entry.bits_per_weight,
            nmse(weights[name].cpu(), decode(entry.to("cpu"))),
        )
        for name, entry in encoded.items()
    ]


def _finished(path: Path) -> Encoded | None:
    if not path.exists():
        return None
    try:
        return load_encoded(path)
    except ArtifactError:  # not ours, or of a disk that lost it: encode again
        return None
