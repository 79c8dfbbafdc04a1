r"""The report of a run, from its record and its small pictures alone: it can be written again at any time.

record.json -> build_document -> render_markdown -> report.md, plots/*.png
                              \-> render_html -> report.html
pictures/*.png -----------------/
"""

from __future__ import annotations

from pathlib import Path

from fulgurite.artifact.files import write_file
from fulgurite.reporting.blocks import Plot
from fulgurite.reporting.figures import save_png
from fulgurite.reporting.html import render_html
from fulgurite.reporting.markdown import render_markdown
from fulgurite.reporting.record import RECORD_NAME, read_record
from fulgurite.reporting.sections import build_document
from fulgurite.reporting.thumbnails import data_uri, read_thumbnails


def write_report(run_dir: str | Path) -> tuple[Path, Path]:
    """Write ``report.md`` with its ``plots/*.png``, and the self-contained ``report.html``.

    Works for any valid record: of a run that goes on, that was cut off, or where every stage was rejected.

    Args:
        run_dir: Folder with ``record.json``, and ``pictures/`` where it has some; the reports are put beside it.

    Returns:
        Paths of the Markdown and of the HTML report.

    Raises:
        FileNotFoundError: If there is no record.
        ValueError: If the record does not fit its schema.
    """
    run_dir = Path(run_dir)
    document = build_document(read_record(run_dir / RECORD_NAME))
    plots = [block for section in document.sections for block in section.blocks if isinstance(block, Plot)]
    images = {plot.name: f"plots/{plot.name}.png" for plot in plots}
    for plot in plots:
        save_png(plot.figure, run_dir / images[plot.name])
    markdown, html = run_dir / "report.md", run_dir / "report.html"
    thumbnails = read_thumbnails(document, run_dir)
    write_file(markdown, render_markdown(document, images | {path: path for path in thumbnails}).encode())
    addresses = {path: data_uri(content) for path, content in thumbnails.items()}
    write_file(html, render_html(document, addresses).encode())
    return markdown, html
