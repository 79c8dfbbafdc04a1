"""An artefact as a network again; ``fulgurite.load`` adds what turns texts and pictures into its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fulgurite._hooks import network_class
from fulgurite.artifact.base import over
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import read_json
from fulgurite.artifact.manifest import Manifest, read_manifest
from fulgurite.artifact.open_clip_loading import load_open_clip
from fulgurite.artifact.open_clip_network import PREFIX


def load(
    folder: Path | str,
    *,
    packed: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    base: Path | str | None = None,
) -> Any:
    """Load an artefact as the network it was made from; all of it or an error.

    Args:
        folder: The artefact.
        packed: Keep the weights packed in memory and decode each when it is used: slower, in the memory of
            the artefact plus its largest weight.
        dtype: Of the decoded weights; the network's own by default.
        device: Where to put it; the CPU by default.
        base: Of a delta, the artefact that it is to be added to; by default where the delta says.

    Returns:
        The network of transformers or open_clip, in evaluation mode.

    Raises:
        ArtifactError: If anything is missing, altered, or not what the network needs.
    """
    manifest = read_manifest(folder)
    if base is not None and manifest.base is None:
        raise ArtifactError(f"{folder}: no delta, so it has no base; got base={str(base)!r}")
    with over(base):
        network = _load(Path(folder), manifest, packed=packed, dtype=dtype)
    return network if device is None else network.to(device)


def _load(folder: Path, manifest: Manifest, *, packed: bool, dtype: torch.dtype | None) -> Any:
    if manifest.model_class.startswith(PREFIX):
        return load_open_clip(folder, packed=packed, dtype=dtype)
    import transformers

    config = read_json(folder / "config.json")
    cls = network_class(manifest.model_class)
    if cls is None or not hasattr(cls, "from_pretrained"):
        raise ArtifactError(
            f"{folder}: transformers {transformers.__version__} has no {manifest.model_class}"
        )
    if "quantization_config" not in config:
        raise ArtifactError(
            f"{folder}/config.json: expected a quantization_config, so that weights get decoded"
        )
    network, info = cls.from_pretrained(
        folder, packed=packed, dtype=dtype or "auto", output_loading_info=True, local_files_only=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found := info.get(kind):
            raise ArtifactError(
                f"{folder}: loading left {kind.replace('_', ' ')}: {sorted(map(str, found))[:3]}"
            )
    return network
