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
        raise FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})")
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
    try:
        if "sentences" in images[0]:
            read = [_karpathy(image) for image in images]
        elif isinstance(annotations, list):
            read = _coco(images, annotations)
        else:
            raise ValueError(f"{path}: {_FORMS}, found {_found(content)}, pictures with {_keys(images[0])}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {_FORMS}; a picture or caption has no {error}") from error
    captioned = [picture for picture in read if picture.captions]
    if not captioned:
        raise ValueError(f"{path}: expected captions, found none for {len(read)} pictures")
    return captioned


def _karpathy(image: Mapping[str, Any]) -> Captioned:
    name, split = str(image["filename"]), str(image["split"])
    if split not in _SPLITS:
        raise KeyError(f"split among {', '.join(_SPLITS)}: {split!r} of {name}")
    folder = image.get("filepath")
    names = (f"{folder}/{name}", name) if folder else (name,)
    return Captioned(names, _texts(sentence["raw"] for sentence in image["sentences"]), _SPLITS[split])


def _coco(images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> list[Captioned]:
    texts: dict[Any, list[str]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        if annotation["image_id"] in texts:
            texts[annotation["image_id"]].append(annotation["caption"])
    return [Captioned((str(image["file_name"]),), _texts(texts[image["id"]]), None) for image in images]


def _texts(sentences: Any) -> list[str]:
    return [text for sentence in sentences if (text := " ".join(sentence.split()))]


def _found(content: Any) -> str:
    if isinstance(content, dict):
        return f"an object with {_keys(content)}"
    inside = f" of {type(content[0]).__name__}" if isinstance(content, list) and content else ""
    return f"{type(content).__name__}{inside}"


def _keys(content: Mapping[str, Any]) -> str:
    names = [str(key) for key in content]
    return f"keys {', '.join(names[:8])}" if names else "no keys"
