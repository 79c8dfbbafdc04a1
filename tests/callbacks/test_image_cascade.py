"""A whole run of ``fulgurite compress`` on a CLIP, whose report shows pictures before and after."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch import Trainer, seed_everything
from PIL import Image

import fulgurite
from datamodules import ShapesDataModule
from fulgurite.artifact.files import sha256_folder
from fulgurite.cli.main import main
from fulgurite.reporting.record import read_record
from lightning_modules import Clip

pytest.importorskip("open_clip")

SHAPES: dict[str, Any] = {"train": 960, "validation": 96, "side": 120, "batch_size": 32}
CLIP = {
    "library": "open_clip",
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 64, "heads": 4, "layers": 1},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of one lenient stage over a CLIP that was fitted until it is above chance."""
    folder = tmp_path_factory.mktemp("clip")
    seed_everything(0, verbose=False)
    module = Clip(config=CLIP, vocab_size=320, learning_rate=1e-3, export_dir=str(folder / "network"))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=6, accelerator="cpu", enable_checkpointing=False, limit_val_batches=0, **quiet
    )
    trainer.fit(module, ShapesDataModule(**SHAPES))
    content = {
        "model": {
            "class_path": "lightning_modules.Clip",
            "init_args": {
                "source": str(folder / "network"),
                "benchmarks": [{"class_path": "ZeroShot", "init_args": {"templates": ["a {}"]}}],
            },
        },
        "data": {"class_path": "datamodules.ShapesDataModule", "init_args": SHAPES},
        "cascade": {
            "stages": {
                "four": {
                    "codec": {"class_path": "UniformCodec", "init_args": {"bits": 4, "group_size": 32}},
                    "min_retention": 0.1,
                }
            },
            "threads": 1,
            "cache_dir": str(folder / "cache"),
            "retries": 0,
        },
        "trainer": {"accelerator": "cpu"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def compress(recipe: Path, folder: Path) -> int:
    return main(["compress", "--config", str(recipe), "--output_dir", str(folder)])


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    folder = recipe.parent / "run"
    assert compress(recipe, folder) == 0
    return folder


def test_the_record_holds_pictures_found_and_what_classes_are_taken_for(run: Path) -> None:
    record = read_record(run)
    pictures = record["pictures"]
    assert pictures["description"] == record["data"]["description"]
    assert [len(each["before"]) for each in pictures["retrieved"]] == [5] * 6
    assert pictures["captions"] == []  # a CLIP writes none
    (attempt,) = record["stages"][0]["tries"]
    top1 = attempt["gate"]["per_measure"][0]
    for side, score in (("before", top1["reference"]), ("after", top1["value"])):
        matrix = np.array(pictures["confusion"][side])
        assert matrix.shape == (36, 36)
        assert matrix.sum() == 96
        assert np.trace(matrix) / 96 == pytest.approx(score)  # by the templates of the module's own benchmark


def test_what_is_shown_lies_beside_the_record(run: Path) -> None:
    pictures = read_record(run)["pictures"]
    shown = {found["index"] for each in pictures["retrieved"] for found in each["before"] + each["after"]}
    assert sorted(map(int, pictures["thumbnails"])) == sorted(shown)
    assert sorted(pictures["thumbnails"].values()) == [
        f"pictures/{path.name}" for path in sorted((run / "pictures").iterdir())
    ]
    for path in (run / "pictures").iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("PNG", (96, 96))  # of 120 x 120 pixels


def test_the_report_shows_the_gallery_and_the_matrices(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 60  # 6 texts, 5 pictures before and 5 after
    assert 'id="confusion-' in page
    assert "right, 0." in page
    assert "Of 36 classes those are shown that changed most" in page
    markdown = (run / "report.md").read_text()
    assert len(re.findall(r"\(pictures/[0-9]{6}\.png\)", markdown)) == 60
    assert "(plots/confusion.png)" in markdown


def test_a_run_killed_at_its_end_and_resumed_ends_with_the_same_files(recipe: Path, run: Path) -> None:
    folder = recipe.parent / "resumed"
    shutil.copytree(run, folder)
    (folder / "report.html").unlink()
    first, *_ = sorted((folder / "pictures").iterdir())
    first.unlink()
    (folder / "pictures" / "999999.png").write_bytes(b"of another result")
    (folder / ".pictures.new-1").mkdir()
    assert compress(recipe, folder) == 0
    assert sha256_folder(folder / "pictures") == sha256_folder(run / "pictures")
    assert read_record(folder)["pictures"] == read_record(run)["pictures"]
    assert not (folder / ".pictures.new-1").exists()
    assert (folder / "report.html").read_text().count("<img ") == 60


def test_the_artefact_loads_with_what_makes_its_inputs(run: Path) -> None:
    network = fulgurite.load(run / "artifact")
    with Image.open(next((run / "pictures").iterdir())) as picture:
        assert network.preprocess(picture).shape == (3, 32, 32)
    assert type(network).__module__.startswith("open_clip")
