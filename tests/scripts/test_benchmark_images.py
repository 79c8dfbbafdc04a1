"""The benchmark of the data path: every pipeline sees every picture, and the page says what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils.data import DataLoader

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark_images.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_images", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_images"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def test_a_small_run_writes_a_row_for_each_pipeline(
    benchmark: ModuleType, shared_data: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    options = ["--pictures", "16", "--workers", "0", "--batch_size", "8", "--repeats", "1"]
    benchmark.main(["--data", str(shared_data / "images" / "coco_ccby"), *options, "--output", str(page)])
    written = page.read_text()
    assert "16 JPEGs of 500 x 375" in written
    assert "--pictures 16 --workers 0" in written
    rows = [line.split("|")[1:-1] for line in written.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip() for row in rows] == [
        "`WebShardsDataModule`",
        "the same, `fast_resize: false`",
        "webdataset and torchvision",
    ]
    assert all(float(value) > 0 for row in rows for value in row[1:] if value.strip() != "0")


def test_a_pipeline_that_loses_pictures_is_not_timed(benchmark: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="expected 5 pictures, the pipeline gave 4"):
        benchmark.measure(
            lambda: DataLoader([0, 1, 2, 3], batch_size=2, collate_fn=lambda each: [each]), 5, 1
        )
