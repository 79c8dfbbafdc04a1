"""A report as Markdown, in the dialect that code hosts show."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fulgurite.reporting.blocks import Block, Code, Document, Fold, Plot, Sample, Table, Text
from fulgurite.reporting.table import escape_markdown, markdown_rows


def render_markdown(document: Document, images: Mapping[str, str]) -> str:
    """Write a document as Markdown.

    Args:
        document: The report.
        images: Path of each plot's picture by the plot's name, relative to the report.
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
        case Fold():  # HTML that code hosts let through; the empty lines make them read the table as Markdown
            table = _block(block.table, images)
            return f"<details><summary>{escape_markdown(block.summary)}</summary>\n\n{table}\n\n</details>"


def fence(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"
