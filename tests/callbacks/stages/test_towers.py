"""A smaller CLIP learns from the network that a run began with, and takes its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fulgurite
from callbacks.stages import TowersStage
from datamodules import ShapesDataModule
from fulgurite.artifact.files import sha256_folder
from fulgurite.cli.main import main
from fulgurite.models import build_image_text, train_caption_tokenizer
from fulgurite.reporting.record import read_record
from lightning_modules import Clip

pytest.importorskip("open_clip")

SHAPES: dict[str, Any] = {"train": 96, "validation": 24, "test": 24, "side": 32, "batch_size": 24}
CLIP: dict[str, Any] = {
    "library": "open_clip",
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]},
}
# residual blocks with running means: a student of another kind, whose state is more than its weights
STUDENT = {
    "library": "open_clip",
    "embed_dim": 8,
    "vision_cfg": {
        "image_size": 32,
        "layers": [1, 1, 1, 1],
        "width": 8,
        "patch_size": None,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}
Run = Callable[..., tuple[int, Path]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights: affinities to be learnt all the same."""
    torch.manual_seed(0)
    shapes = ShapesDataModule(**SHAPES)
    texts = [text for each in shapes.split("train").captions for text in each]
    network, adapter = build_image_text(CLIP, train_caption_tokenizer(texts, 320, "clip"))
    folder = tmp_path_factory.mktemp("teacher") / "network"
    adapter.save(network.eval(), folder)
    return folder


@pytest.fixture
def compress(teacher: Path, tmp_path: Path) -> Run:
    def run(name: str = "run", **settings: Any) -> tuple[int, Path]:
        init_args = {"config": STUDENT, "steps": 14, "checkpoint_every": 3, "learning_rate": 3e-3, **settings}
        stage = {"class_path": "callbacks.stages.TowersStage", "init_args": init_args}
        content = {
            "model": {
                "class_path": "lightning_modules.Clip",
                "init_args": {"source": str(teacher), "benchmarks": [{"class_path": "ZeroShot"}]},
            },
            "data": {"class_path": "datamodules.ShapesDataModule", "init_args": SHAPES},
            "cascade": {
                "stages": {"student": stage},
                "gate": {"stage_retention": [0.001], "cumulative": 0.001, "floor": 0.001},
                "allow_uninformative": True,  # random weights know no more than chance
                "threads": 1,
                "report": False,
                "cache_dir": str(tmp_path / "cache"),
            },
            "trainer": {"accelerator": "cpu"},
        }
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))
        status = main(["compress", "--config", str(recipe), "--output_dir", str(tmp_path / name)])
        return status, tmp_path / name

    return run


def student_of(folder: Path) -> Path:
    return folder / "stages/student/try-1/artifact"


def test_a_student_of_another_kind_comes_nearer_to_the_teacher(compress: Run) -> None:
    _, folder = compress(teacher_weight=1.0)
    (stage,) = read_record(folder)["stages"]
    (attempt,) = stage["tries"]
    facts = attempt["structure"]
    assert facts["kind"] == "towers"
    assert facts["loss_last"] < 0.9 * facts["loss_first"]
    network = fulgurite.load(student_of(folder))
    assert sum(weight.numel() for weight in network.parameters()) == facts["weights"]
    pixels = network.preprocess(ShapesDataModule(**SHAPES).split("test").picture(0))
    assert network.encode_image(pixels[None]).shape == (1, 8)


def test_a_crash_in_the_training_changes_no_byte(compress: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = compress("whole")
    step, seen = Clip.training_step, []

    def watched(self: Clip, batch: Any, batch_idx: int) -> Any:
        seen.append(self.global_step)
        if len(seen) == 11:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Clip, "training_step", watched)
    assert compress("crashed")[0] == 1
    _, folder = compress("crashed")
    assert seen[11] == 9  # the last checkpoint, not the beginning
    assert sha256_folder(student_of(folder)) == sha256_folder(student_of(whole))


def test_a_student_that_reads_other_pictures_is_refused(
    compress: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = {**STUDENT, "vision_cfg": {**STUDENT["vision_cfg"], "image_size": 64}}  # type: ignore[dict-item]
    assert compress(config=larger)[0] == 1
    assert "the teacher must read pictures as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"teacher_weight": -0.1}, r"teacher_weight must be in \[0, 1\], got -0.1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TowersStage(STUDENT, **settings)
