"""Recorded gradients: statistics of channels and the bits that the coder took for them, as files.

gradient of a layer at a step -> some channels, at some quantisation steps -> statistics [m, 6], bits [m] -> safetensors
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fulgurite.gradients.entropy import measured_bits
from fulgurite.gradients.statistics import STATISTICS, channel_statistics

FORMAT = "fulgurite-gradient-records/1"


@dataclass(frozen=True)
class GradientRecords:
    """Channels of gradients, one a row.

    Args:
        statistics: In units of the quantiser's step, float32 ``[m, 6]``.
        bits: Per value, as the coder took them, float32 ``[m]``.
        layer: Which of ``layers``, int64 ``[m]``.
        step: Of the training, int64 ``[m]``.
        layers: Names of parameters.
    """

    statistics: Tensor
    bits: Tensor
    layer: Tensor
    step: Tensor
    layers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.bits)

    def save(self, path: Path | str) -> None:
        """Write them."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).contiguous() for name in ("statistics", "bits", "layer", "step")}
        metadata = {"format": FORMAT, "layers": json.dumps(self.layers), "statistics": json.dumps(STATISTICS)}
        save_file(tensors, str(path), metadata=metadata)

    @classmethod
    def load(cls, path: Path | str) -> GradientRecords:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds no such records.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: expected recorded gradients, found nothing; "
                "callbacks.record_gradients.RecordGradients writes them"
            )
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"{path}: expected format {FORMAT!r}, got {metadata.get('format')!r}")
                layers = tuple(json.loads(metadata["layers"]))
                parts = [file.get_tensor(name) for name in ("statistics", "bits", "layer", "step")]
        except SafetensorError as error:
            raise ValueError(f"{path}: no recorded gradients: {error}") from error
        return cls(parts[0], parts[1], parts[2], parts[3], layers)

    @classmethod
    def joined(cls, parts: Sequence[GradientRecords]) -> GradientRecords:
        """Several as one; layers of the same name are the same.

        Raises:
            ValueError: If there is none.
        """
        if not parts:
            raise ValueError("expected recorded gradients, got none")
        layers = tuple(dict.fromkeys(name for part in parts for name in part.layers))
        place = {name: index for index, name in enumerate(layers)}
        number = [torch.tensor([place[name] for name in part.layers])[part.layer] for part in parts]
        return cls(
            torch.cat([part.statistics for part in parts]),
            torch.cat([part.bits for part in parts]),
            torch.cat(number),
            torch.cat([part.step for part in parts]),
            layers,
        )


@torch.no_grad()
def record(
    gradients: Mapping[str, Tensor], step: int, steps: Sequence[float], channels: int
) -> GradientRecords:
    """Measure some channels of each gradient at some quantisation steps.

    Args:
        gradients: Matrices by name.
        step: Of the training.
        steps: Of the quantiser, in units of a gradient's root mean square.
        channels: Of each gradient at most, evenly spaced.
    """
    statistics, bits, layer = [], [], []
    for number, gradient in enumerate(gradients.values()):
        matrix = gradient.detach().flatten(1).float().cpu()
        scale = matrix.square().mean().sqrt().clamp_min(1e-30)
        chosen = torch.linspace(0, len(matrix) - 1, min(channels, len(matrix))).round().long()
        for width in steps:
            units = matrix[chosen] / (scale * width)
            statistics.append(channel_statistics(units))
            bits.append(measured_bits(units))
            layer.append(torch.full((len(chosen),), number))
    numbers = torch.cat(layer)
    return GradientRecords(
        torch.cat(statistics), torch.cat(bits), numbers, torch.full_like(numbers, step), tuple(gradients)
    )
