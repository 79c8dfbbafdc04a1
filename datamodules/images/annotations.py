"""Caption files in the two usual forms.

    {images: [{filename, split, sentences: [{raw}]}]}                            one file for all splits (Karpathy)
    {images: [{id, file_name}], annotations: [{image_id, caption}]}              one file a split (COCO)
        -> captions of each picture, in the order of the file

References: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015,
https://arxiv.org/abs/1412.2306, whose splits of MS-COCO and Flickr30k come in the first form; Chen et al., "Microsoft
COCO Captions", https://arxiv.org/abs/1504.00325, for the second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.images.settings import looked_from

_SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
_FORMS = (
    "expected {images: [{filename, split, sentences: [{raw}]}]} (Karpathy) or "
    "{images: [{id, file_name}], annotations: [{image_id, caption}]} (COCO)"
)

_LONGEST = 60  # characters of a value that a message shows


@dataclass(frozen=True)
class Captioned:
    """A picture of a caption file.

    Args:
        names: Where it may be: with its folder, if the file names one, and without.
        captions: Its texts, at least one.
        split: ``train``, ``validation`` or ``test``; ``None`` where the file does not say.
    """

    names: tuple[str, ...]
    captions: Sequence[str]
    split: str | None


def read_annotations(path: Path) -> list[Captioned]:
    """The pictures of a caption file; those without a caption are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has another form; the message says what was found.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{looked_from(path)}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise ValueError(f"{path}: {_FORMS}, found {_found(content)}")
    if not images:
        raise ValueError(f"{path}: expected pictures, found an empty list")
    annotations = content.get("annotations")
    if "sentences" in images[0]:
        read = [_karpathy(image, f"{path}: images[{index}]") for index, image in enumerate(images)]
    elif isinstance(annotations, list):
        read = _coco(path, images, annotations)
    else:
        raise ValueError(f"{path}: {_FORMS}, found {_found(content)}, pictures with {_keys(images[0])}")
    captioned = [picture for picture in read if picture.captions]
    if not captioned:
        raise ValueError(f"{path}: expected captions, found none for {len(read)} pictures")
    return captioned


def _karpathy(image: Mapping[str, Any], where: str) -> Captioned:
    name = _field(image, "filename", str, where)
    where = f"{where} ({name})"
    split = _field(image, "split", str, where)
    if split not in _SPLITS:
        raise ValueError(f"{where}: expected split to be one of {', '.join(_SPLITS)}, found {split!r}")
    folder = _field(image, "filepath", str, where) if image.get("filepath") else None
    names = (f"{folder}/{name}", name) if folder else (name,)
    sentences = _field(image, "sentences", list, where)
    texts = [_field(each, "raw", str, f"{where}: sentences[{at}]") for at, each in enumerate(sentences)]
    return Captioned(names, _written(texts), _SPLITS[split])


def _coco(path: Path, images: Sequence[Any], annotations: Sequence[Any]) -> list[Captioned]:
    pictures: list[tuple[int | str, str]] = []
    for index, image in enumerate(images):
        name = _field(image, "file_name", str, f"{path}: images[{index}]")
        pictures.append((_field(image, "id", (int, str), f"{path}: images[{index}] ({name})"), name))
    names = dict(pictures)
    texts: dict[int | str, list[str]] = {picture: [] for picture in names}
    for index, annotation in enumerate(annotations):
        where = f"{path}: annotations[{index}]"
        picture = _field(annotation, "image_id", (int, str), where)
        if picture in texts:
            texts[picture].append(_field(annotation, "caption", str, f"{where} of {names[picture]}"))
    return [Captioned((name,), _written(texts[picture]), None) for picture, name in pictures]


_KINDS = {dict: "an object", list: "a list", str: "text", int: "a number"}


def _field(content: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A value of a JSON object, of the kind that it should be.

    Raises:
        ValueError: If there is none, or one of another kind; ``where`` says of which picture or caption.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected an object with {key}, found {_shown(content)}")
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(_KINDS[each] for each in kinds)
    if key not in content:
        raise ValueError(f"{where}: expected {key}, {expected}, found {_keys(content)}")
    value = content[key]
    if not isinstance(value, kinds) or isinstance(value, bool):  # JSON's true is a number in Python
        raise ValueError(f"{where}: expected {key} to be {expected}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value as it stands in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _written(texts: Sequence[str]) -> list[str]:
    """Texts without those that are empty, each white space one blank."""
    return [joined for text in texts if (joined := " ".join(text.split()))]


def _found(content: Any) -> str:
    if isinstance(content, dict):
        return f"an object with {_keys(content)}"
    inside = f" of {type(content[0]).__name__}" if isinstance(content, list) and content else ""
    return f"{type(content).__name__}{inside}"


def _keys(content: Mapping[str, Any]) -> str:
    names = [str(key) for key in content]
    return f"keys {', '.join(names[:8])}" if names else "no keys"
