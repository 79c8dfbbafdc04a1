"""An analysis as a table for the terminal, and as a page with its plot.

results -> Result: title, lead, tables, plot, facts -> terminal | JSON | FOLDER/<name>.md, .json, .png
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulgurite.artifact.files import write_file
from fulgurite.reporting.table import escape_markdown, markdown_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Rows:
    """One table.

    Args:
        header: Names of the columns.
        rows: Cells.
        numeric: Which columns stand to the right.
        note: How to read it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What an analysis has found.

    Args:
        name: Of its files.
        title: Of its page.
        lead: What was compared, and how to read it.
        tables: In order.
        facts: All of it for a program.
        figure: The plot, where there is something to draw.
        alt: What the plot shows.
        command: That made it.
    """

    name: str
    title: str
    lead: str
    tables: Sequence[Rows]
    facts: Mapping[str, Any]
    figure: Figure | None = None
    alt: str = ""
    command: str = ""
    closing: Sequence[str] = field(default_factory=tuple)

    def markdown(self, image: str | None = None, level: int = 1) -> str:
        """The page.

        Args:
            image: Path of the plot, relative to the page.
            level: Of its heading.
        """
        parts = [f"{'#' * level} {escape_markdown(self.title)}", self.lead]
        if image is not None:
            parts.append(f"![{escape_markdown(self.alt)}]({image})")
        for table in self.tables:
            parts += [
                markdown_rows(table.header, table.rows, table.numeric),
                *([table.note] if table.note else []),
            ]
        parts += self.closing
        if self.command:
            parts.append(f"Made by `{self.command}`.")
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> Path:
        """Write ``<name>.md``, ``<name>.json`` and the plot; the path of the page."""
        from fulgurite.reporting.figures import save_png

        folder.mkdir(parents=True, exist_ok=True)
        image = None
        if self.figure is not None:
            image = f"{self.name}.png"
            save_png(self.figure, folder / image)
        content = json.dumps(plain(self.facts), indent=1, allow_nan=False)
        write_file(folder / f"{self.name}.json", content.encode())
        page = folder / f"{self.name}.md"
        write_file(page, self.markdown(image).encode())
        return page


def plain(value: Any) -> Any:
    """JSON without NaN and infinity, which become ``None``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value
