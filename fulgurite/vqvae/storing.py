"""A trained network in a folder: its weights, and the shapes that they are of."""

from __future__ import annotations

import json
from pathlib import Path

from fulgurite.vqvae.hierarchy import Hierarchy

_SHAPES, _WEIGHTS = "vqvae.json", "vqvae.safetensors"


def save_hierarchy(folder: Path, hierarchy: Hierarchy) -> None:
    """Write ``vqvae.json`` and ``vqvae.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: values.detach().cpu().contiguous() for name, values in hierarchy.state_dict().items()}
    save_file(state, folder / _WEIGHTS)
    (folder / _SHAPES).write_text(json.dumps(hierarchy.description(), indent=1) + "\n", encoding="utf-8")


def load_hierarchy(folder: Path) -> Hierarchy:
    """Read what ``save_hierarchy`` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no such network.
    """
    from safetensors.torch import load_file

    for name in (_SHAPES, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: expected {name}, as a fit of HierarchicalVqvae writes it")
    try:
        hierarchy = Hierarchy.from_description(json.loads((folder / _SHAPES).read_bytes()))
        hierarchy.load_state_dict(load_file(folder / _WEIGHTS))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder}: expected a HierarchicalVqvae, cannot be read ({error})") from error
    return hierarchy.eval()
