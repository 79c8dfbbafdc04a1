"""One encoded weight in a file of its own: what a run has finished, kept across a crash."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import write_file
from fulgurite.codecs import Encoded

_FACTS = "encoded"


def save_encoded(path: Path, encoded: Encoded) -> None:
    """Write an encoded weight, all of it or nothing."""
    facts = {
        "codec": encoded.codec,
        "shape": list(encoded.shape),
        "dtype": encoded.dtype,
        "meta": dict(encoded.meta),
        "order": list(encoded.tensors),
    }
    tensors = {name: part.cpu().contiguous() for name, part in encoded.tensors.items()}
    write_file(path, save(tensors, metadata={_FACTS: json.dumps(facts)}))


def load_encoded(path: Path) -> Encoded:
    """Read what ``save_encoded`` wrote.

    Raises:
        ArtifactError: If the file is not such a one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[_FACTS])
            tensors = {name: file.get_tensor(name) for name in facts["order"]}
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ArtifactError(f"{path}: expected an encoded weight: {error}") from error
    return Encoded(facts["codec"], tuple(facts["shape"]), facts["dtype"], tensors, facts["meta"])
