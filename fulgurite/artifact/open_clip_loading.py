r"""Artefacts of open_clip networks: built without memory, held against the manifest, then filled.

    open_clip_config.json -> network on the meta device -> names and shapes as the manifest has them
    model.safetensors     -> each weight decoded into its place, or kept packed

The configuration is untrusted: nothing of the sizes that it asks for is allocated before the manifest agrees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import MANIFEST_FILE, read_json
from fulgurite.artifact.manifest import Manifest
from fulgurite.artifact.open_clip_network import (
    CONFIG_FILE,
    PREFIX,
    check_model_cfg,
    fill_buffers,
    make_network,
)
from fulgurite.artifact.packed import pack_module_
from fulgurite.artifact.reader import Artifact


@torch.no_grad()
def load_open_clip(
    folder: Path | str, *, packed: bool = False, dtype: torch.dtype | None = None
) -> nn.Module:
    """The network of an open_clip artefact, on the CPU and in evaluation mode.

    Args:
        folder: The artefact.
        packed: Keep the weights packed and decode each when it is used.
        dtype: Of the decoded weights; each one's own by default.

    Raises:
        ArtifactError: If anything is missing, altered, or not what the network needs.
    """
    try:
        import open_clip  # noqa: F401
    except ImportError as error:
        raise ArtifactError(
            f"{folder}: an open_clip network; pip install open_clip_torch to load it"
        ) from error
    artifact = Artifact(folder)
    manifest = artifact.manifest
    if packed and artifact.base is not None:
        raise ArtifactError(f"{folder}: a delta is added to its base's weights: packed must be false")
    path = Path(folder) / CONFIG_FILE
    try:
        model_cfg = check_model_cfg(
            read_json(path).get("model_cfg"), most_layers=max(1, len(manifest.weights))
        )
        network = make_network(model_cfg, "meta")
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    if PREFIX + type(network).__name__ != manifest.model_class:
        raise ArtifactError(f"{path}: describes a {type(network).__name__}, not {manifest.model_class}")
    _check_names(manifest, network.state_dict())
    fill_buffers(network, model_cfg)
    parameters = dict(network.named_parameters())
    for name in manifest.weights:
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        own = getattr(torch, (artifact.base or artifact).manifest.layout(name).dtype)
        wanted = own if dtype is None or not own.is_floating_point else dtype
        if packed and name in parameters and not manifest.layout(name).native:
            pack_module_(module, attribute, artifact.encoded(name), wanted)
            continue
        value = artifact.whole(name).to(wanted).contiguous()
        if name in parameters:
            module._parameters[attribute] = nn.Parameter(value, requires_grad=value.is_floating_point())
        else:
            module._buffers[attribute] = value
    if dtype is not None:
        network.to(dtype)  # the buffers that were computed; all else has it
    return network.eval()


def _check_names(manifest: Manifest, state: dict[str, Tensor]) -> None:
    """Every entry of the network is in the artefact, in its shape and kind, and the other way round."""
    where = manifest.folder / MANIFEST_FILE
    if manifest.aliases:
        raise ArtifactError(
            f"{where}: an open_clip network has no tied weights, found {sorted(manifest.aliases)[0]!r}"
        )
    if missing := sorted(set(state) - set(manifest.weights)):
        raise ArtifactError(
            f"{where}: the network has {missing[0]!r} and {len(missing) - 1} more, not listed there"
        )
    if extra := sorted(set(manifest.weights) - set(state)):
        raise ArtifactError(f"{where}: lists {extra[0]!r} and {len(extra) - 1} more, which the network lacks")
    for name, expected in state.items():
        layout: Any = manifest.layout(name)
        if layout.shape != tuple(expected.shape):
            raise ArtifactError(
                f"{where}: weight {name!r} has shape {list(layout.shape)}, the network's is {list(expected.shape)}"
            )
        kind = getattr(torch, layout.dtype, None)
        if not isinstance(kind, torch.dtype) or kind.is_floating_point != expected.is_floating_point():
            raise ArtifactError(
                f"{where}: weight {name!r} has dtype {layout.dtype!r}, the network's is {expected.dtype}"
            )
