"""The YAML fragments of image-text data are what jsonargparse takes; files are not read."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from datamodules import ImageTextDataModule

FOLDER = Path(__file__).parents[2] / "configs" / "data"
CONFIGS = {
    "emoji": "CaptionsDataModule",
    "cifar10": "ClassFolderDataModule",
    "coco_ccby": "CaptionsDataModule",
    "shapes": "ShapesDataModule",
    "imagenet": "ClassFolderDataModule",
    "coco": "CaptionsDataModule",
    "flickr30k": "CaptionsDataModule",
    "conceptual_captions": "WebShardsDataModule",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fragment_makes_its_data_module(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    assert path.read_text().startswith("# ")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LightningDataModule, "data")
    # settings of the base are among those of each class, and a flag overrides the file
    parsed = parser.parse_args(["--config", str(path), "--data.seed", "7", "--data.max_broken", "0.5"])
    data = parser.instantiate(parsed).data
    assert type(data).__name__ == CONFIGS[name]
    assert isinstance(data, ImageTextDataModule)
    assert (data.seed, data.max_broken) == (7, 0.5)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("emoji", [1258, 202, 185]),
        ("cifar10", [9500, 500, 10_000]),
        ("coco_ccby", [25, 1, 85]),
        ("shapes", [1600, 96, 96]),
    ],
)
def test_a_fragment_with_files_here_reads_them(name: str, sizes: list[int], shared_data: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LightningDataModule, "data")
    arguments = ["--config", str(FOLDER / f"{name}.yaml"), "--data.check", "exists"]
    if name != "shapes":
        folder = {"emoji": "emoji", "cifar10": "cifar10", "coco_ccby": "coco_ccby"}[name]
        arguments += ["--data.data_dir", str(shared_data / "images" / folder)]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert [len(data.split(split)) for split in ("train", "validation", "test")] == sizes
