"""Small copies of the pictures that a report shows, in the run's folder.

PictureComparison -> pictures shown -> at most 96 pixels a side -> pictures/000123.png -> the record's ``pictures``
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fulgurite.artifact.files import write_folder
from fulgurite.evaluation.benchmarks import PictureComparison
from fulgurite.evaluation.image_split import ImageSplit

THUMBNAILS = "pictures"
"""Their folder in that of the run."""

_SIDE = 96  # pixels


def pictures_record(comparison: PictureComparison, split: ImageSplit, folder: Path) -> dict[str, Any]:
    """What the record says of pictures; their small copies replace those that were there.

    Args:
        comparison: What was found.
        split: Its pictures.
        folder: Of the run.
    """
    names = {index: f"{index:06d}.png" for index in sorted(_shown(comparison))}

    def fill(fresh: Path) -> None:
        from PIL import Image

        for index, name in names.items():
            picture = split.picture(index).convert("RGB")
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)  # smaller ones stay as they are
            picture.info.clear()  # a camera's remarks would be kept
            picture.save(fresh / name)

    write_folder(folder / THUMBNAILS, fill)
    thumbnails = {str(index): f"{THUMBNAILS}/{name}" for index, name in names.items()}
    return {**comparison.to_dict(), "thumbnails": thumbnails}


def _shown(comparison: PictureComparison) -> set[int]:
    found = {picture.index for each in comparison.retrieved for picture in (*each.before, *each.after)}
    return found | {each.index for each in comparison.captions}
