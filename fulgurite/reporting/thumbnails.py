"""Small pictures of a run as the report shows them: read from the run's folder, nothing outside it.

document -> paths of its pictures -> files that are there and whole -> data URIs for the page
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from fulgurite.reporting.blocks import Captions, Document, Gallery, Picture

_FIRST = b"\x89PNG\r\n\x1a\n"
_LAST = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MOST = 1 << 18  # bytes: 96 x 96 pixels of noise are 28 thousand


def read_thumbnails(document: Document, run_dir: Path) -> dict[str, bytes]:
    """Content of the PNG files of a document's pictures, by their paths relative to the run's folder.

    What is missing, cut short, no PNG, too large for a small picture or outside of the folder is left out.
    """
    found = {}
    for path in dict.fromkeys(picture.path for picture in _pictures(document)):
        content = None if path is None else _read(run_dir, path)
        if path is not None and content is not None:
            found[path] = content
    return found


def data_uri(png: bytes) -> str:
    """An address that holds the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _pictures(document: Document) -> Iterator[Picture]:
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Gallery):
                yield from (*block.reference, *block.artifact)
            elif isinstance(block, Captions):
                yield block.picture


def _read(run_dir: Path, path: str) -> bytes | None:
    try:
        file = (run_dir / path).resolve()  # follows links: they may lead out of the folder
        if not file.is_relative_to(run_dir.resolve()) or not file.is_file() or file.stat().st_size > _MOST:
            return None
        content = file.read_bytes()
    except (OSError, ValueError):  # not readable, or a name that no file can have
        return None
    return content if content.startswith(_FIRST) and content.endswith(_LAST) else None
