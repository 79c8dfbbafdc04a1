"""What a report is made of, before it is written as HTML or Markdown.

Text in blocks is plain text: each writer escapes it in its own way, so nothing that a network generates can
become markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells by row; ``numeric`` says which columns stand to the right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]


@dataclass(frozen=True)
class Code:
    """Lines to copy, as they are."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure.

    Args:
        name: Of its file and its element; letters, digits and underscores.
        figure: What to draw.
        alt: What it shows, for those who do not see it.
        caption: How to read it.
    """

    name: str
    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Sample:
    """One prompt and how two networks go on from it."""

    prompt: str
    reference: str
    artifact: str


@dataclass(frozen=True)
class Picture:
    """A small picture, with what is said of it.

    Args:
        name: Shown where there is no file, and to those who do not see it.
        path: Its file relative to the run's folder; ``None`` where it has none.
        note: Words under it.
        marked: Whether it is set off from the others; the note says it in words.
    """

    name: str
    path: str | None
    note: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Gallery:
    """A text with the pictures that two networks find for it, nearest first."""

    query: str
    reference: Sequence[Picture]
    artifact: Sequence[Picture]


@dataclass(frozen=True)
class Captions:
    """A picture with what people and two networks say of it."""

    picture: Picture
    people: Sequence[str]
    reference: str
    artifact: str


@dataclass(frozen=True)
class Fold:
    """A long table behind its summary."""

    summary: str
    table: Table


Block = Text | Table | Code | Plot | Sample | Gallery | Captions | Fold


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report: its title, the sentence that sums it up, and its sections."""

    title: str
    lead: str
    sections: Sequence[Section]
