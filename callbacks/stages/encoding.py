"""Encode a network's weights: spread over ranks, each finished one kept on disk.

Ranks exchange what they made through files in the run's folder (which all ranks see, as they do the
artefact): the file is at the same time what a restarted run goes on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from callbacks.stages.selection import share_out
from fulgurite.artifact.encoded_file import load_encoded, save_encoded
from fulgurite.artifact.errors import ArtifactError
from fulgurite.calibration import Metric
from fulgurite.codecs import Codec, Encoded, as_matrix, decode, nmse
from fulgurite.threads import side_by_side


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight.

    Args:
        weight: Its name.
        codec: Name of the codec that holds it.
        num_bytes: Of its packed parts.
        bits_per_weight: Stored, scales and codebooks included.
        nmse: ``|W - W_hat|^2 / |W|^2``.
        weighted_error: The same with squares that its metric weights; ``None`` where it has no metric, or that
            is the identity.
    """

    weight: str
    codec: str
    num_bytes: int
    bits_per_weight: float
    nmse: float
    weighted_error: float | None = None


Progress = Callable[[str, Encoded], None]


def encode_weights(
    weights: Mapping[str, Tensor],
    codecs: Mapping[str, Codec],
    metrics: Mapping[str, Metric],
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
        metrics: What an error in each costs, by name; a weight may have none.
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

    def encode(name: str) -> Encoded:
        path = encoded_path(folder, name)
        if (encoded := _finished(path)) is None:
            metric = metrics.get(name, Metric())
            hessian, row_weight = (
                None if part is None else part.to(device) for part in (metric.hessian, metric.row_weight)
            )
            try:
                encoded = codecs[name].encode(weights[name].to(device), hessian, row_weight)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            encoded = encoded.to("cpu")
            save_encoded(path, encoded)
        return encoded

    names = [name for name in codecs if name in share]  # the network's order reads best in the progress
    threads = None if all(codecs[name].one_thread for name in names) else 1
    for name, encoded in zip(names, side_by_side(encode, names, threads), strict=True):
        if progress is not None:
            progress(name, encoded)


def read_encoded(folder: Path, names: list[str]) -> dict[str, Encoded]:
    """What all ranks have encoded."""
    return {name: load_encoded(encoded_path(folder, name)) for name in names}


def encoded_path(folder: Path, name: str) -> Path:
    """File of one encoded weight."""
    return folder / f"{name}.safetensors"


def report_layers(
    weights: Mapping[str, Tensor], encoded: Mapping[str, Encoded], metrics: Mapping[str, Metric]
) -> list[LayerReport]:
    """Bytes and error of each weight, against what it was made from."""
    reports = []
    for name, entry in encoded.items():
        weight, decoded = weights[name].cpu(), decode(entry.to("cpu"))
        reports.append(
            LayerReport(
                name,
                entry.codec,
                entry.num_bytes,
                entry.bits_per_weight,
                nmse(weight, decoded),
                weighted_error(weight, decoded, metrics.get(name, Metric())),
            )
        )
    return reports


def weighted_error(weight: Tensor, decoded: Tensor, metric: Metric) -> float | None:
    """The error's cost over that of losing the whole weight; ``None`` where the metric is the identity."""
    if metric.hessian is None and metric.row_weight is None:
        return None
    known = as_matrix(weight)
    error, whole = metric.cost(known - as_matrix(decoded)), metric.cost(known)
    return error / whole if whole > 0 else error


def _finished(path: Path) -> Encoded | None:
    if not path.exists():
        return None
    try:
        return load_encoded(path)
    except ArtifactError:  # not ours, or of a disk that lost it: encode again
        return None
