"""A small network that says how many bits a channel takes, from six numbers about it.

statistics [c, 6] -> logarithms where they span decades -> standardised -> 64 -> 64 -> bits per value [c]
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.gradients.statistics import STATISTICS

FORMAT = "fulgurite-entropy-predictor/1"
_HIDDEN = 64
_TINY = 1e-6


class EntropyPredictor(nn.Module):
    """Two hidden layers of 64 over a channel's statistics, in units of the quantiser's step.

    ``fit_inputs`` sets the standardisation, which is saved with the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(len(STATISTICS), _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, 1),
        )
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(len(STATISTICS)))
        self.register_buffer("scale", torch.ones(len(STATISTICS)))

    @torch.no_grad()
    def fit_inputs(self, statistics: Tensor) -> None:
        """Standardise by these ``[m, 6]``."""
        inputs = _spread(statistics)
        self.shift.copy_(inputs.mean(0))
        self.scale.copy_(inputs.std(0).clamp_min(1e-3))

    @override
    def forward(self, statistics: Tensor) -> Tensor:
        """Bits per value ``[c]``, not negative, of statistics ``[c, 6]``."""
        inputs = (_spread(statistics) - self.shift) / self.scale
        bits: Tensor = nn.functional.softplus(self.layers(inputs)[:, 0])
        return bits


def save_predictor(
    predictor: EntropyPredictor, path: Path | str, facts: dict[str, str] | None = None
) -> None:
    """Write a predictor with its version and what is known of it."""
    metadata = {"format": FORMAT, "statistics": json.dumps(STATISTICS), **(facts or {})}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in predictor.state_dict().items()}
    save_file(state, str(path), metadata=metadata)


def load_predictor(path: Path | str) -> EntropyPredictor:
    """Read a predictor that ``save_predictor`` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none, of another version, or over other statistics.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected an entropy predictor, found nothing")
    predictor = EntropyPredictor()
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path}: expected format {FORMAT!r}, got {metadata.get('format')!r}")
            if json.loads(metadata["statistics"]) != list(STATISTICS):
                raise ValueError(
                    f"{path}: expected statistics {list(STATISTICS)}, got {metadata['statistics']}"
                )
            predictor.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: no entropy predictor: {str(error).splitlines()[0]}") from error
    return predictor.eval()


def _spread(statistics: Tensor) -> Tensor:
    """Statistics on scales on which differences mean the same everywhere."""
    mean, variance, std, skewness, kurtosis, sparsity = statistics.float().unbind(1)
    return torch.stack(
        [
            mean.sign() * (1 + mean.abs() / _TINY**0.5).log(),
            (variance + _TINY).log(),
            (std + _TINY).log(),
            skewness.sign() * (1 + skewness.abs()).log(),
            (1 + kurtosis).log(),
            sparsity,
        ],
        dim=1,
    )
