"""Several deltas over one base as one network: the base's weights and a sum of what each fine-tuning changed.

References: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, https://arxiv.org/abs/2212.04089, for sums
of deltas; Yu et al. (DARE), ICML 2024, https://arxiv.org/abs/2311.03099, for sums of sparse ones, which meet seldom.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fulgurite.artifact.base import over
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.loading import load
from fulgurite.artifact.reader import Artifact


@torch.no_grad()
def merge(
    base: Path | str,
    deltas: Sequence[Path | str],
    weights: Sequence[float] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Load a base with the weighted sum of some deltas over it.

    Args:
        base: The artefact that all of them were made over.
        deltas: Artefacts with a base.
        weights: How much of each; the whole of each by default.
        dtype: Of the weights; the network's own by default.
        device: Where to put it; the CPU by default.

    Returns:
        The network of transformers or open_clip, in evaluation mode.

    Raises:
        ArtifactError: If one is no delta over this base.
        ValueError: If there is no delta, or not one weight for each.

    Example:
        ``merge("runs/base/artifact", ["runs/code/artifact", "runs/prose/artifact"], [0.5, 0.5])``
    """
    shares = [1.0] * len(deltas) if weights is None else list(weights)
    if not deltas or len(shares) != len(deltas):
        raise ValueError(
            f"expected a weight for each of {len(deltas)} deltas and one delta at least, got {shares}"
        )
    network = load(base)
    parameters = dict(network.named_parameters())
    sums = {name: parameter.float() for name, parameter in parameters.items()}
    for folder, share in zip(deltas, shares, strict=True):
        with over(base):
            delta = Artifact(folder)
        if delta.base is None:
            raise ArtifactError(f"{folder}: expected a delta over {base}, found an artefact without a base")
        for name in parameters.keys() & set(delta):
            sums[name] = sums[name] + share * delta.decode(name).float()
    for name, parameter in parameters.items():
        parameter.copy_(sums.pop(name))
    return network.to(device=device, dtype=dtype)
