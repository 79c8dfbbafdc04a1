"""A report as Markdown, in the dialect that code hosts show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fulgurite.reporting.blocks import (
    Block,
    Captions,
    Code,
    Document,
    Fold,
    Gallery,
    Picture,
    Plot,
    Sample,
    Table,
    Text,
)
from fulgurite.reporting.table import escape_markdown, markdown_rows


def render_markdown(document: Document, images: Mapping[str, str]) -> str:
    """Write a document as Markdown.

    Args:
        document: The report.
        images: Where each picture lies, relative to the report: of a plot by its name, of others by their paths;
            those that are missing are named instead.
    """
    parts = [f"# {escape_markdown(document.title)}", escape_markdown(document.lead)]
    for section in document.sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts += [_block(block, images) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, images: Mapping[str, str]) -> str:
    match block:
        case Text():
            return escape_markdown(block.text)
        case Table():
            return markdown_rows(block.header, block.rows, block.numeric)
        case Code():
            return fence(block.text, block.language)
        case Plot():
            return (
                f"![{escape_markdown(block.alt)}]({images[block.name]})\n\n{escape_markdown(block.caption)}"
            )
        case Sample():
            parts = [("Prompt", block.prompt), ("Reference", block.reference), ("Artefact", block.artifact)]
            return "\n\n".join(f"{name}:\n\n{fence(text)}" for name, text in parts)
        case Gallery():
            sides = [("Reference", block.reference), ("Artefact", block.artifact)]
            rows = [_row([name, *_tiles(pictures, images)]) for name, pictures in sides]
            columns = max(len(block.reference), len(block.artifact), 1)
            header = _row([escape_markdown(block.query), *(str(place + 1) for place in range(columns))])
            return "\n".join([header, _row(["---"] * (columns + 1)), *rows])
        case Captions():
            said = [("People", text) for text in block.people]
            said += [("Reference", block.reference), ("Artefact", block.artifact)]
            lines = [f"- {name}: {escape_markdown(text) or '(nothing)'}" for name, text in said]
            return "\n".join([_picture(block.picture, images), "", *lines])
        case Fold():  # HTML that code hosts let through; the empty lines make them read the table as Markdown
            table = _block(block.table, images)
            return f"<details><summary>{escape_markdown(block.summary)}</summary>\n\n{table}\n\n</details>"


def _tiles(pictures: Sequence[Picture], images: Mapping[str, str]) -> list[str]:
    if not pictures:
        return ["none: its vectors are no numbers"]
    return [f"{_picture(each, images)} {escape_markdown(each.note)}" for each in pictures]


def _picture(picture: Picture, images: Mapping[str, str]) -> str:
    name = escape_markdown(picture.name)
    address = images.get(picture.path or "")
    return name if address is None else f"![{name}]({address})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fence(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"
