"""Write the artefact that guards the file format: a new version gets a new folder, an old one is never rewritten.

python scripts/golden_artifact.py tests/artifact/data/v1
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from fulgurite.artifact.reader import Artifact
from fulgurite.artifact.writer import write_artifact
from fulgurite.testing import CONTRACT_CASES


def main(folder: Path) -> None:
    """Encode one small weight by each contract case, and keep what it decodes to."""
    if folder.exists():
        raise SystemExit(
            f"{folder} exists: files that were written once must stay readable, make a new version"
        )
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 24, generator=generator) * 0.05
    encoded = {f"{name}.weight": codec.encode(weight) for name, codec in CONTRACT_CASES.items()}
    write_artifact(folder, encoded, model_class="Golden", aliases={"tied.weight": "fp16.weight"})
    artifact = Artifact(folder)
    save_file(
        {name: artifact.decode(name).contiguous() for name in artifact},
        folder.with_suffix(".decoded.safetensors"),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
