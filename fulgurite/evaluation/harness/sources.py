"""Where a benchmark's items come from: local files with the hub's field names, or the hub.

    task YAML (files, fields, hub) + data folder -> rows of each split, checked -> datasets.Dataset
                                   no data folder -> datasets.load_dataset(hub)

The harness calls ``rows`` and ``documents`` as a task's ``custom_dataset``, with the YAML's ``dataset_kwargs`` and the
metadata of the run: ``data_dir`` and ``text``. So the same YAMLs serve ``lm_eval --metadata '{"data_dir": ...}'``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fulgurite.evaluation.harness.text_items import cut_choices, cut_documents, cut_last_words

Row = dict[str, Any]

_FOLDER = "--bench_data DIR (benchmarks.data_dir in a recipe)"
_FOLDERS = ("", "bench", "text")  # a data folder may hold the benchmarks, or these beside others
_KINDS: Mapping[str, type] = {"text": str, "list": list}
_ONE_OF, _INDEX_OF, _NUMBER = "one of ", "the index of one of ", "number 1 to "
_CUTS: Mapping[str, Callable[..., list[Row]]] = {
    "documents": cut_documents,
    "last_words": cut_last_words,
    "continuations": cut_choices,
}


class BenchmarkDataError(ValueError):
    """A benchmark's file is missing or has not the form that its task needs."""


def rows(
    *,
    files: Mapping[str, str],
    fields: Mapping[str, str],
    hub: Sequence[str] = (),
    shots: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    **ignored: Any,
) -> dict[str, Any]:
    """The items of a benchmark, by split.

    Args:
        files: Pattern of each split's file in the data folder, such as ``{"test": "arc_easy/test*"}``; the first that
            matches is read: ``.jsonl``, ``.json`` or ``.parquet``.
        fields: What each item must have, a dot going down one level, and what it must be: ``text``, ``list``,
            ``texts``, ``one of FIELD``, ``the index of one of FIELD`` or ``number 1 to N``.
        hub: Name and, where there is one, configuration on the hub, for when there is no data folder.
        shots: How the items of one split stand in front of another's: see ``with_shots``.
        data_dir: The data folder.
        **ignored: Other metadata of the run.

    Raises:
        BenchmarkDataError: If a file is missing, is not readable, or an item lacks a field; says which.
    """
    from datasets import Dataset

    if data_dir is None:
        splits = {split: list(part) for split, part in _from_hub(hub, tuple(files)).items()}
        places = {split: f"{'/'.join(hub)}, split {split}" for split in splits}
    else:
        found = {split: find_file(data_dir, pattern) for split, pattern in files.items()}
        splits = {split: read_rows(path) for split, path in found.items()}
        places = {split: str(path) for split, path in found.items()}
    for split, items in splits.items():
        check_rows(items, fields, places[split])
    if shots is not None:
        splits = with_shots(splits, **shots)
    return {split: Dataset.from_list(items) for split, items in splits.items()}


def documents(
    *,
    files: Mapping[str, str | None],
    cut: str,
    settings: Mapping[str, Any] | None = None,
    hub: Sequence[str] = (),
    data_dir: str | None = None,
    text: str | Sequence[str] | None = None,
    any_text: bool = False,
    **ignored: Any,
) -> dict[str, Any]:
    """Items cut from running text.

    Args:
        files: Pattern of each split's file in the data folder; ``None`` where only a given text will do.
        cut: ``documents``, ``last_words`` or ``continuations``: see ``text_items``.
        settings: Of the cut.
        hub: As for ``rows``; its field ``text`` or ``page`` is read.
        data_dir: The data folder.
        text: Files to read in place of the data folder's, where ``any_text``.
        any_text: Whether the benchmark is one of any text.
        **ignored: Other metadata of the run.

    Raises:
        BenchmarkDataError: If there is no text, or nothing can be cut from it.
    """
    from datasets import Dataset

    given = [text] if isinstance(text, str) else list(text or ())
    if any_text and given:
        texts = {split: [_read_text(Path(path)) for path in given] for split in files}
    elif data_dir is not None and all(files.values()):
        texts = {split: [_read_text(find_file(data_dir, str(pattern)))] for split, pattern in files.items()}
    elif hub:
        loaded = _from_hub(hub, tuple(files))
        texts = {split: [row.get("page") or row["text"] for row in part] for split, part in loaded.items()}
    else:
        raise BenchmarkDataError("this benchmark is cut from a text: expected --text FILE, found none")
    made = {}
    for split, parts in texts.items():
        try:
            made[split] = _CUTS[cut](parts, **(settings or {}))
        except ValueError as error:
            raise BenchmarkDataError(f"{', '.join(given) or files[split]}: {error}") from error
    return {split: Dataset.from_list(items) for split, items in made.items()}


def find_file(data_dir: str | Path, pattern: str) -> Path:
    """The first file of a data folder that matches.

    Raises:
        BenchmarkDataError: If there is none; tells where it was looked for.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        raise BenchmarkDataError(f"{folder}: expected a folder of benchmarks, found none")
    for below in _FOLDERS:
        found = sorted(path for path in (folder / below).glob(pattern) if path.is_file())
        if found:
            return found[0]
    looked = ", ".join(str(folder / below / pattern) for below in _FOLDERS)
    raise BenchmarkDataError(f"{folder}: expected a file {pattern}, found none; looked for {looked}")


def read_rows(path: Path) -> list[Row]:
    """Items of a ``.jsonl``, ``.json`` or ``.parquet`` file.

    Raises:
        BenchmarkDataError: If it cannot be read as such, or is empty.
    """
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            items = list(parquet.read_table(path).to_pylist())
        elif path.suffix == ".json":
            items = json.loads(path.read_text(encoding="utf-8"))
        else:
            items = list(_lines(path))
    except (OSError, UnicodeError, ValueError) as error:
        if isinstance(error, BenchmarkDataError):
            raise
        raise BenchmarkDataError(f"{path}: expected items in JSON lines or parquet: {error}") from error
    if not isinstance(items, list) or not items:
        raise BenchmarkDataError(
            f"{path}: expected a list of items, found {type(items).__name__ if items else 'none'}"
        )
    return items


def check_rows(items: Sequence[Any], fields: Mapping[str, str], place: str) -> None:
    """Make sure that each item has what its benchmark asks for.

    Raises:
        BenchmarkDataError: Names the place, the item and the field.
    """
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            raise BenchmarkDataError(
                f"{place}: item {number}: expected an object, found {type(item).__name__}"
            )
        for field, kind in fields.items():
            try:
                value = _part(item, field)
            except KeyError:
                there = ", ".join(sorted(map(str, item)))
                raise BenchmarkDataError(
                    f"{place}: item {number}: expected a field {field!r}, found the fields {there}"
                ) from None
            if not _is_kind(value, kind, item):
                raise BenchmarkDataError(
                    f"{place}: item {number}: expected field {field!r} to be {kind}, found {str(value)[:60]!r}"
                )


def with_shots(
    splits: Mapping[str, list[Row]], *, split: str, into: str, by: str, count: int, fields: Sequence[str]
) -> dict[str, list[Row]]:
    """Let each item carry the first solved ones of its own group, as MMLU's five of each subject.

    Args:
        splits: Items by split.
        split: Where the solved ones are.
        into: The split whose items get them, as ``shots``.
        by: Field that tells the group.
        count: Solved items a group.
        fields: What of a solved item is kept.

    Raises:
        BenchmarkDataError: If a group has fewer solved items.
    """
    groups: dict[Any, list[Row]] = {}
    for item in splits[split]:
        groups.setdefault(item[by], []).append({field: item[field] for field in fields})
    made = dict(splits)
    made[into] = []
    for item in splits[into]:
        solved = groups.get(item[by], [])[:count]
        if len(solved) < count:
            raise BenchmarkDataError(
                f"split {split}: expected {count} items whose {by} is {item[by]!r}, found {len(solved)}"
            )
        made[into].append({**item, "shots": solved})
    return made


def _part(item: Any, field: str) -> Any:
    for part in field.split("."):
        if not isinstance(item, Mapping):
            raise KeyError(field)
        item = item[part]
    return item


def _is_kind(value: Any, kind: str, item: Mapping[str, Any]) -> bool:
    """Whether a field is what the task's YAML says of it."""
    if kind.startswith(_ONE_OF):
        return value in _part(item, kind.removeprefix(_ONE_OF))
    if kind.startswith(_INDEX_OF):
        count = len(_part(item, kind.removeprefix(_INDEX_OF)))
        return isinstance(value, str | int) and str(value) in map(str, range(count))
    if kind.startswith(_NUMBER):
        return str(value) in map(str, range(1, 1 + int(kind.removeprefix(_NUMBER))))
    if kind == "texts":
        return isinstance(value, list) and len(value) > 0 and all(isinstance(each, str) for each in value)
    return isinstance(value, _KINDS[kind]) and not isinstance(value, bool)


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise BenchmarkDataError(f"{path}: line {number}: expected JSON: {error}") from error


def _read_text(path: Path) -> str:
    import lzma

    try:
        raw = path.read_bytes()
        decoded = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()
        return decoded.replace("\r\n", "\n")
    except (OSError, UnicodeError, lzma.LZMAError) as error:
        raise BenchmarkDataError(f"{path}: expected a text in UTF-8: {error}") from error


def _from_hub(hub: Sequence[str], splits: Sequence[str]) -> dict[str, Any]:
    from datasets import load_dataset

    if not hub:
        raise BenchmarkDataError(f"this benchmark is read from a folder: expected {_FOLDER}, found none")
    try:
        loaded = load_dataset(*hub)
        return {split: loaded[split] for split in splits}
    except Exception as error:  # whatever the hub's client raises, the way out is the same
        reason = str(error).split("\n", 1)[0]
        raise BenchmarkDataError(
            f"{'/'.join(hub)} could not be read from the hub ({type(error).__name__}: {reason}); "
            f"give the folder of its files by {_FOLDER}"
        ) from error
