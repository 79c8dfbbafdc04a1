"""Files that were written once must stay readable: bytes of each format version, and what they decode to."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fulgurite import Artifact

FOLDERS = sorted(path for path in (Path(__file__).parent / "data").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_old_artifact_decodes_to_the_same_weights(folder: Path) -> None:
    expected = load_file(folder.with_suffix(".decoded.safetensors"))
    artifact = Artifact(folder)
    assert set(artifact) == set(expected)
    for name in artifact:
        # sums of a curve's few coefficients may be taken in another order; everything else is exact
        torch.testing.assert_close(artifact.decode(name), expected[name], rtol=1e-6, atol=1e-9)


def test_there_is_one_for_each_version() -> None:
    assert [folder.name for folder in FOLDERS] == ["v1"]
