"""Pictures with captions from a JSON file, such as MS-COCO and Flickr30k.

annotations.json   -> pictures, captions, splits -> PictureTable of each split
folder | zip | tar -> where each picture lies    ->
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from datamodules.image_text import ImageTextDataModule
from datamodules.images.annotations import Captioned, read_annotations
from datamodules.images.settings import one_of
from datamodules.images.stores import PictureStore, open_store
from datamodules.images.table import PictureTable


class CaptionsDataModule(ImageTextDataModule):
    """Pictures with captions, as caption files in the Karpathy or the COCO form list them.

    Args:
        annotations: A file in the Karpathy form, which says the split of each picture (``restval`` counts as
            train); or a file for each of ``train``, ``validation`` and ``test``, in either form.
        pictures: Folder, ``.zip`` or ``.tar`` of the pictures, or one for each split. A picture is looked for
            under the name in the file, and else by its last part.
        captions: Whether a picture's captions are all read, or the ``first`` alone.
        common: Settings of ``ImageTextDataModule``.

    Example:
        >>> data = CaptionsDataModule("dataset_flickr30k.json", "flickr30k-images", data_dir="flickr30k")
    """

    def __init__(
        self,
        annotations: str | dict[str, str],
        pictures: str | dict[str, str],
        captions: Literal["all", "first"] = "all",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        one_of(("all", "first"), captions=captions)
        check_splits("annotations", annotations)
        check_splits("pictures", pictures)
        self.captions = captions
        self._annotations = annotations
        self._pictures = pictures
        self._read: dict[Path, list[Captioned]] = {}
        self._stores: dict[Path, PictureStore] = {}

    @override
    def own_splits(self) -> frozenset[str]:
        if isinstance(self._annotations, dict):
            return frozenset(self._annotations)
        path = self._folder / self._annotations
        splits = [picture.split for picture in self._file(path)]
        if None in splits:
            raise ValueError(
                f"{path}: a file in the COCO form does not say splits; give annotations as "
                "{train: FILE, validation: FILE}"
            )
        return frozenset(split for split in splits if split is not None)

    @override
    def read_table(self, split: str) -> PictureTable:
        given = self._annotations
        path = self._folder / (given[split] if isinstance(given, dict) else given)
        found = [picture for picture in self._file(path) if picture.split in (None, split)]
        if not found:
            raise ValueError(f"{path}: expected pictures of the {split} split, found none")
        store = self._store(split)
        captions: dict[str, list[str]] = {}
        for picture in found:
            name = store.find(*picture.names) or picture.names[0]  # checking reports what is missing
            captions.setdefault(name, []).extend(picture.captions)
        texts = [each[:1] if self.captions == "first" else each for each in captions.values()]
        description = f"{len(captions)} {split} pictures of {path.parent.name}/{path.name}"
        return PictureTable(description, store, list(captions), texts)

    def _file(self, path: Path) -> list[Captioned]:
        if path not in self._read:
            self._read[path] = read_annotations(path)
        return self._read[path]

    def _store(self, split: str) -> PictureStore:
        path = self._folder / path_of("pictures", self._pictures, split)
        if path not in self._stores:
            self._stores[path] = open_store(path)
        return self._stores[path]


def check_splits(setting: str, given: str | Mapping[str, str]) -> None:
    """Raise ``ValueError`` where a setting by split has other keys."""
    if isinstance(given, str):
        return
    wrong = [key for key in given if key not in ("train", "validation", "test")]
    if wrong or not given:
        raise ValueError(
            f"{setting} must be a path, or paths by train, validation and test; got "
            f"{', '.join(map(repr, wrong)) or 'nothing'}"
        )


def path_of(setting: str, given: str | Mapping[str, str], split: str) -> str:
    """The path of a split, where a setting is one path or paths by split.

    Raises:
        ValueError: If there is none for the split.
    """
    if isinstance(given, str):
        return given
    if split not in given:
        raise ValueError(f"{setting} has no path for {split}; there is {', '.join(given)}")
    return given[split]
