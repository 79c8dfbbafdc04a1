"""Short lists that a recipe holds itself or keeps in a text file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_lines(what: str, source: Sequence[str] | str) -> tuple[str, ...]:
    """The entries of a list, or the lines of a file; blank lines and those that begin with ``#`` are passed over.

    Args:
        what: What the entries are, for messages.
        source: The entries, or the path of a UTF-8 file.

    Raises:
        ValueError: If there is no such file, it is not UTF-8, or there is no entry.
    """
    if not isinstance(source, str):
        entries, where = tuple(source), what
    else:
        where = source
        try:
            text = Path(source).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ValueError(f"{source}: expected a file of {what}, one a line, found none") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{source}: expected a file of {what}, one a line, found {error}") from error
        lines = (line.strip() for line in text.splitlines())
        entries = tuple(line for line in lines if line and not line.startswith("#"))
    if not entries:
        raise ValueError(f"{where}: expected one of {what} at least, found none")
    return entries
