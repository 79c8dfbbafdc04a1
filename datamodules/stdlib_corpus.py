"""A text corpus that every machine already has: the docstrings of Python's own library.

    .py files of the standard library -> ast -> docstrings -> drop repeats -> split by module -> text

A first run, a test and a demonstration then need no download and no account. It is real English
prose, though narrow and technical: figures on it say little about other text, and the text differs
between Python versions, so compare figures only within one.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SPLITS = ("train", "validation", "test")
_VERSION = b"1"  # change when other docstrings are chosen, or another split: caches are then not read
# tests, bundled copies and demonstrations: little prose, or text that is not the library's own
_SKIPPED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages"}
)
_SHORTEST = 40  # characters; shorter docstrings ("See above.") are labels rather than prose
_TELLING = 100  # characters; a shared paragraph of this length means copied text, not a stock phrase


def stdlib_files() -> list[Path]:
    """Source files of the running Python's library, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*.py") if not _SKIPPED & set(path.relative_to(root).parts))
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def stdlib_fingerprint() -> str:
    """Hash of the files' names, sizes and times: equal as long as the library is the same."""
    digest = hashlib.sha256(_VERSION)
    for path in stdlib_files():
        state = path.stat()
        digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@cache
def stdlib_corpus() -> dict[str, str]:
    """The corpus by split: whole modules go to one split, by a hash of their name.

    About 80 % of the modules are ``train``, 10 % ``validation`` and 10 % ``test``. Nothing is imported
    or run: files are only parsed. A docstring that repeats an earlier one, or a longer paragraph of
    one, is dropped, so no such paragraph of ``validation`` or ``test`` is in ``train``.

    Returns:
        ``{"train": text, "validation": text, "test": text}``, docstrings joined by blank lines.
    """
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for path in stdlib_files():
        split = split_of(path.relative_to(root).as_posix())
        for text in docstrings(path):
            marks = {text, *(part for part in text.split("\n\n") if len(part) > _TELLING)}
            if len(text) >= _SHORTEST and not marks & seen:
                seen |= marks
                parts[split].append(text)
    return {split: "\n\n".join(texts) for split, texts in parts.items()}


def split_of(name: str) -> str:
    """Split of the module ``name``, the same on every machine."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of one source file, outer ones first, without their common indentation."""
    try:
        with warnings.catch_warnings():
            # an old escape such as "\d" warns, and would drop the file where warnings are errors
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates and deliberately broken sources are no modules
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8 text
