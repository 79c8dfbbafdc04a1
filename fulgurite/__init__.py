"""Compress trained networks to the fewest bytes that still pass a quality gate.

    import fulgurite
    network = fulgurite.load("runs/books6m/artifact")
    network = fulgurite.merge("runs/base/artifact", ["runs/code/artifact", "runs/prose/artifact"], [0.5, 0.5])  # deltas
    vectors = fulgurite.load("runs/minilm_280x/artifact").encode(["a text", "another"])  # of a text encoder, [n, d]

After the import, transformers' own ``from_pretrained`` reads artefacts too. Importing is cheap: torch,
transformers and the rest are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fulgurite._hooks import register_when_imported
from fulgurite._version import __version__

if TYPE_CHECKING:
    from fulgurite.artifact.errors import ArtifactError
    from fulgurite.artifact.merging import merge
    from fulgurite.artifact.reader import Artifact
    from fulgurite.artifact.writer import write_artifact
    from fulgurite.loading import load

_LAZY = {
    "Artifact": "fulgurite.artifact.reader",
    "ArtifactError": "fulgurite.artifact.errors",
    "load": "fulgurite.loading",
    "merge": "fulgurite.artifact.merging",
    "write_artifact": "fulgurite.artifact.writer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fulgurite' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


register_when_imported()

__all__ = ["Artifact", "ArtifactError", "__version__", "load", "merge", "write_artifact"]
