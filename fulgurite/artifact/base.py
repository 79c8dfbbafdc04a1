"""Deltas: artefacts whose weights are to be added to those of another one, their base.

    manifest -> path and checksum of the base -> the folder that is it -> base's weight + this one's

The base is found by its path, as it was given when the delta was made: from the working directory, or from a folder
that the delta lies in, so that a tree of both can be moved. The checksum tells whether it is the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import MANIFEST_FILE
from fulgurite.artifact.manifest import BaseReference, Manifest, checksum

_GIVEN: ContextVar[Path | None] = ContextVar("base", default=None)


def refer_to(folder: Path | str) -> BaseReference:
    """The reference to an artefact that a delta over it holds.

    Raises:
        ArtifactError: If there is no artefact.
    """
    return BaseReference(Path(folder).as_posix(), _checksum_of(Path(folder)))


def find_base(manifest: Manifest) -> Path:
    """The folder of a delta's base.

    Raises:
        ArtifactError: If it is not found, or is not what the delta was made over.
    """
    wanted = manifest.base
    if wanted is None:
        raise ArtifactError(f"{manifest.folder}: has no base, it is an artefact by itself")
    given = _GIVEN.get()
    places = [given] if given is not None else _places(manifest.folder, Path(wanted.path))
    others = []
    for place in places:
        if (place / MANIFEST_FILE).is_file():
            if (found := _checksum_of(place)) == wanted.checksum:
                return place
            others.append(f"{place} with checksum {found}")
    raise ArtifactError(
        f"{manifest.folder}: a delta over {wanted.path} with checksum {wanted.checksum}, found "
        f"{', '.join(others) or 'none' if given is None else others[0] if others else f'no artefact at {given}'}; "
        "load(folder, base=...) says where it is"
    )


@contextmanager
def over(base: Path | str | None) -> Iterator[None]:
    """Deltas that are opened meanwhile are over this folder, wherever they were made."""
    token = _GIVEN.set(None if base is None else Path(base))
    try:
        yield
    finally:
        _GIVEN.reset(token)


def _places(folder: Path, path: Path) -> list[Path]:
    if path.is_absolute():
        return [path]
    return [path, *(parent / path for parent in folder.resolve().parents)]


def _checksum_of(folder: Path) -> str:
    """Of the manifest, which holds those of all else."""
    try:
        return checksum((folder / MANIFEST_FILE).read_bytes())
    except OSError as error:
        raise ArtifactError(f"{folder}: expected an artefact with {MANIFEST_FILE}, found none") from error
