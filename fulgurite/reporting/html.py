"""A report as one HTML file: no script, no font, no picture from elsewhere; those it shows are in it.

The page follows the reader's light or dark theme, scrolls wide tables inside themselves on a phone, and
prints on white. All text passes ``html.escape``; a content policy forbids loads that would slip through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

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
    Section,
    Table,
    Text,
)
from fulgurite.reporting.figures import inline_svg

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{sections}
</main>
</body>
</html>
"""

# the series are Okabe and Ito's, lighter on a dark page so that lines keep a contrast of 3 to 1
_STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --page: #fff; --panel: #f4f6f8; --line: #d3d9df; --accent: #0060a0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a8b0b9; --page: #14171a; --panel: #1f2429; --line: #3a424a;
    --accent: #6cb8f0; --series-0: #5aaee8; --series-1: #ff8a45; --series-2: #35c79a; --series-3: #e39cc4;
    --series-4: #f0b63f; --series-5: #7fcbf5; --series-6: #b79bd0; }
}
@media print {
  :root { --ink: #000; --soft: #333; --page: #fff; --panel: #fff; --line: #999; --accent: #000;
    --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #cc79a7; --series-4: #e69f00;
    --series-5: #56b4e9; --series-6: #7a5195; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 58rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
p { overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; border-left: 4px solid var(--accent); padding-left: 0.9rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption, figcaption { color: var(--soft); font-size: 0.9rem; text-align: left; padding: 0.3rem 0; }
th, td { padding: 0.35rem 0.7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
/* stays readable while a wide table scrolls under it */
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 2.5rem); }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
td { min-width: 8rem; }
th.n, td.n { min-width: 0; text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem 1rem;
  overflow-x: auto; font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--accent); }
.sample { border: 1px solid var(--line); border-radius: 6px; padding: 0.2rem 1rem 0.9rem; margin: 1rem 0; }
.sample h3 { font-size: 0.85rem; color: var(--soft); margin: 0.7rem 0 0.2rem; }
.sample p { white-space: pre-wrap; margin: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 0 1.5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.8rem, 1fr)); gap: 0.5rem;
  list-style: none; margin: 0; padding: 0; font-size: 0.85rem; }
.tile { border: 2px dashed var(--line); border-radius: 6px; padding: 0.3rem; min-width: 0; text-align: center;
  overflow-wrap: anywhere; }
.marked { border: 2px solid var(--accent); }
.tile img, .seen img { display: block; width: 6rem; height: 6rem; max-width: 100%; margin: 0 auto;
  object-fit: contain; }
.tile i, .seen i { display: block; color: var(--soft); overflow-wrap: anywhere; }
.seen { display: grid; grid-template-columns: 6rem minmax(0, 1fr); gap: 0 1.25rem; align-items: start;
  padding-top: 0.9rem; }
.seen h3:first-child { margin-top: 0; }
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 10pt; }
  h2 { break-after: avoid; }
  figure, tr, .sample, .tile { break-inside: avoid; }
  .wide { overflow: visible; }
  figure svg { min-width: 0; }
  pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


def render_html(document: Document, images: Mapping[str, str]) -> str:
    """Write a document as one self-contained page.

    Args:
        document: The report.
        images: ``data:`` address of each picture by its path; those that are missing are named instead.
    """
    sections = "\n".join(
        _section(number, part, images) for number, part in enumerate(document.sections, start=1)
    )
    title, lead = escape(document.title), escape(document.lead)
    return _PAGE.format(title=title, policy=_POLICY, style=_STYLE, lead=lead, sections=sections)


def _section(number: int, section: Section, images: Mapping[str, str]) -> str:
    blocks = "\n".join(_block(block, images) for block in section.blocks)
    heading = f'<h2 id="section-{number}">{escape(section.title)}</h2>'
    return f'<section aria-labelledby="section-{number}">\n{heading}\n{blocks}\n</section>'


def _block(block: Block, images: Mapping[str, str]) -> str:
    match block:
        case Text():
            return f"<p>{escape(block.text)}</p>"
        case Table():
            return _table(block)
        case Code():
            return f"<pre><code>{escape(block.text)}</code></pre>"
        case Plot():
            svg = inline_svg(block.figure, block.name, escape(block.alt))
            caption = f"<figcaption>{escape(block.caption)}</figcaption>"
            return f"<figure>{_wide(svg, escape(block.caption))}{caption}</figure>"
        case Sample():
            pair = [("Reference", block.reference), ("Artefact", block.artifact)]
            inner = "".join(f"<div>{_labelled(name, text)}</div>" for name, text in pair)
            prompt = _labelled("Prompt", block.prompt)
            return f'<div class="sample">{prompt}<div class="pair">{inner}</div></div>'
        case Gallery():
            sides = [("Reference", block.reference), ("Artefact", block.artifact)]
            inner = "".join(f"<h3>{name}</h3>{_tiles(pictures, images)}" for name, pictures in sides)
            return f'<div class="sample">{_labelled("Text", block.query)}{inner}</div>'
        case Captions():
            said = [("People", "\n".join(block.people))] if block.people else []
            said += [("Reference", block.reference), ("Artefact", block.artifact)]
            inner = "".join(_labelled(name, text or "(nothing)") for name, text in said)
            picture = _picture(block.picture, images)
            return f'<div class="sample seen"><div>{picture}</div><div>{inner}</div></div>'
        case Fold():
            summary = f"<summary>{escape(block.summary)}</summary>"
            return f"<details>{summary}{_table(block.table)}</details>"


def _labelled(name: str, text: str) -> str:
    return f"<h3>{name}</h3><p>{escape(text)}</p>"


def _tiles(pictures: Sequence[Picture], images: Mapping[str, str]) -> str:
    if not pictures:
        return "<p>none: its vectors are no numbers</p>"
    tiles = "".join(
        f'<li class="tile{" marked" * each.marked}">{_picture(each, images)}{escape(each.note)}</li>'
        for each in pictures
    )
    return f'<ol class="tiles">{tiles}</ol>'


def _picture(picture: Picture, images: Mapping[str, str]) -> str:
    name = escape(picture.name)
    address = images.get(picture.path or "")
    return f"<i>{name}</i>" if address is None else f'<img src="{escape(address)}" alt="{name}">'


def _wide(inner: str, label: str) -> str:
    """What may be wider than a phone; a keyboard can reach and scroll it."""
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{inner}</div>'


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_aligned(number)}>{escape(cell)}</th>'
        for cell, number in zip(table.header, table.numeric, strict=True)
    )
    body = "\n".join(_row(row, table.numeric) for row in table.rows)
    caption = f"<caption><span>{escape(table.caption)}</span></caption>"
    inner = f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return _wide(inner, escape(table.caption))


def _row(row: Sequence[str], numeric: Sequence[bool]) -> str:
    first, *rest = row
    cells = "".join(
        f"<td{_aligned(number)}>{escape(cell)}</td>" for cell, number in zip(rest, numeric[1:], strict=True)
    )
    return f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'


def _aligned(number: bool) -> str:
    return ' class="n"' if number else ""
