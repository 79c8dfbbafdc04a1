"""Pictures in folders by class, such as ImageNet: the folder is the label, the class's name makes the text.

train/n01440764/x.JPEG -> label 0 -> class_names: "tench" -> templates: "a photo of a tench."
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from datamodules.captions import check_splits, path_of
from datamodules.image_text import ImageTextDataModule
from datamodules.images.settings import looked_from
from datamodules.images.stores import PictureStore, open_store
from datamodules.images.table import PictureTable

logger = logging.getLogger(__name__)
_FOLDERS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "valid": "validation",
    "test": "test",
}


class ClassFolderDataModule(ImageTextDataModule):
    """Pictures in class folders.

    Args:
        pictures: Folder, ``.zip`` or ``.tar`` with ``train/CLASS/x.jpg`` and, where there are such,
            ``val`` (or ``validation``, ``valid``) and ``test``; without these folders all pictures are train pictures.
            Or one for each split, with ``CLASS/x.jpg`` in it.
        class_names: File with the names of the classes: one a line in the order of the sorted folders, or JSON
            ``{folder: name}`` or ``{number: [folder, name]}``. By default the folders' names, with spaces for ``_``.
        templates: Sentences in which training reads a class's name in place of ``{}``; evaluation's batches read
            the first.
        common: Settings of ``ImageTextDataModule``.

    Raises:
        ValueError: If there is no template, or one without ``{}``.

    Example:
        >>> data = ClassFolderDataModule("cifar10_jpg.zip", templates=["a photo of a {}.", "a blurry {}."])
    """

    def __init__(
        self,
        pictures: str | dict[str, str],
        class_names: str | None = None,
        templates: list[str] | str = "a photo of a {}.",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_splits("pictures", pictures)
        self.templates = [templates] if isinstance(templates, str) else list(templates)
        wrong = [template for template in self.templates if "{}" not in template]
        if wrong or not self.templates:
            raise ValueError(f"templates must have {{}} where the class's name goes, got {wrong or 'none'}")
        self._pictures = pictures
        self._class_names = None if class_names is None else self._folder / class_names
        self._stores: dict[Path, PictureStore] = {}
        self._found: dict[str, tuple[PictureStore, dict[str, str]]] = {}  # split: store, class folder by name
        self._folders: list[str] = []

    @override
    def own_splits(self) -> frozenset[str]:
        return frozenset(self._files())

    @override
    def read_table(self, split: str) -> PictureTable:
        store, folder_of = self._files()[split]
        classes = self.classes
        label = {folder: place for place, folder in enumerate(self._folders)}
        labels = np.array([label[folder] for folder in folder_of.values()], np.int64)
        names = [[classes[place]] for place in labels.tolist()]
        description = f"{len(labels)} {split} pictures of {len(classes)} classes in {store.path.name}"
        return PictureTable(description, store, list(folder_of), names, labels, classes, self.templates)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, by label.

        Raises:
            ValueError: If a class has no name.
        """
        self._files()
        if self._class_names is None:
            return [folder.replace("_", " ") for folder in self._folders]
        return read_class_names(self._class_names, self._folders)

    def _files(self) -> Mapping[str, tuple[PictureStore, dict[str, str]]]:
        """Store and class folder of each picture, by split."""
        if not self._found:
            if isinstance(self._pictures, dict):
                for split in self._pictures:
                    store = self._store(split)
                    self._found[split] = (store, _classes_of(_unwrapped(store.pictures(), 1)))
            else:
                self._found = self._shared_root(self._store("train"))
            # labels are those of the train folders; a class that only another split has comes to them
            folders = {folder for _, folder_of in self._found.values() for folder in folder_of.values()}
            self._folders = sorted(folders)
            if not self._folders:
                self._found = {}
                raise self._no_classes()
        return self._found

    def _shared_root(self, store: PictureStore) -> dict[str, tuple[PictureStore, dict[str, str]]]:
        by_split: dict[str, dict[str, str]] = {}
        paths = _unwrapped(store.pictures(), 1)
        tops = {path.partition("/")[0] for path in paths.values()}
        if not tops <= _FOLDERS.keys():
            paths = _unwrapped(paths, 2)  # the split folders may lie in another
            tops = {path.partition("/")[0] for path in paths.values()}
        if not tops & _FOLDERS.keys():
            return {"train": (store, _classes_of(_unwrapped(store.pictures(), 1)))}
        for name, path in paths.items():
            top, _, rest = path.partition("/")
            if top in _FOLDERS:
                by_split.setdefault(_FOLDERS[top], {})[name] = rest
        return {split: (store, _classes_of(files)) for split, files in by_split.items()}

    def _store(self, split: str) -> PictureStore:
        path = self._folder / path_of("pictures", self._pictures, split)
        if path not in self._stores:
            self._stores[path] = open_store(path)
        return self._stores[path]

    def _no_classes(self) -> ValueError:
        found = []
        for path, store in self._stores.items():
            some = ", ".join(store.names[:3]) or "nothing"
            found.append(
                f"{path}: {len(store.names)} files, {len(store.pictures())} pictures, such as {some}"
            )
        return ValueError(f"expected pictures in class folders (train/CLASS/x.jpg), found {'; '.join(found)}")


def _unwrapped(names: Sequence[str] | Mapping[str, str], depth: int) -> dict[str, str]:
    """Paths without the folders that all share, but with ``depth`` folders left; by the name in the store."""
    paths = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    while paths:
        tops = {path.partition("/")[0] for path in paths.values()}
        if len(tops) > 1 or min(path.count("/") for path in paths.values()) <= depth:
            break
        paths = {name: path.partition("/")[2] for name, path in paths.items()}
    return paths


def _classes_of(paths: Mapping[str, str]) -> dict[str, str]:
    """Class folder of each picture that lies in one."""
    return {name: path.partition("/")[0] for name, path in paths.items() if "/" in path}


def read_class_names(path: Path, folders: Sequence[str]) -> list[str]:
    """The name of each class folder.

    Args:
        path: Text, one name a line in the order of ``folders``; or JSON, ``{folder: name}`` or
            ``{number: [folder, name]}``.
        folders: The folders, sorted.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a folder has no name, or there are not as many lines as folders.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{looked_from(path)}")
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected an object of names by folder, found {type(content).__name__}")
        pairs = [value if isinstance(value, list) else (key, value) for key, value in content.items()]
        named = {str(pair[0]): str(pair[-1]).replace("_", " ") for pair in pairs if pair}
        missing = [folder for folder in folders if folder not in named]
        if missing:
            raise ValueError(f"{path}: {len(missing)} of {len(folders)} classes have no name: {missing[:5]}")
        names = [named[folder] for folder in folders]
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if len(names) != len(folders):
            raise ValueError(
                f"{path}: expected {len(folders)} names, one for each class folder, found {len(names)}"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:  # as in a list of ImageNet's names that goes round: two cranes, two maillots
        logger.warning("%s: classes that no text tells apart: %s", path, ", ".join(twice[:5]))
    return names
