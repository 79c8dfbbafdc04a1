"""Tables of numbers from files, a block of rows at a time.

.parquet, .csv | .npz, .safetensors [#tensor] | sklearn:NAME -> Table: names of columns, blocks [rows, columns]

What is not held in memory: a block is read, used and let go, so a table may be larger than the memory.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]

BLOCK = 4096
"""Rows of a block."""
_BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
SKLEARN = "sklearn:"


class Table(ABC):
    """Rows of numbers under named columns.

    Args:
        source: As it was given.
        columns: Names, all different.
        skipped: Columns that are no numbers.
    """

    def __init__(self, source: str, columns: Sequence[str], skipped: Sequence[str] = ()) -> None:
        if not columns:
            raise ValueError(f"{source}: expected columns of numbers, found none")
        if len(set(columns)) < len(columns):
            twice = sorted({name for name in columns if list(columns).count(name) > 1})
            raise ValueError(f"{source}: expected names of columns that differ, found {twice[0]!r} twice")
        self.source = source
        self.columns = tuple(columns)
        self.skipped = tuple(skipped)

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows in order, ``[rows, columns]`` a block; what is missing is NaN."""


class _ParquetTable(Table):
    def __init__(self, source: str, path: Path) -> None:
        from pyarrow import parquet

        self._path = path
        schema = parquet.ParquetFile(path).schema_arrow
        super().__init__(source, *_numeric(schema))

    def blocks(self) -> Iterator[Block]:
        from pyarrow import parquet

        for batch in parquet.ParquetFile(self._path).iter_batches(BLOCK, columns=list(self.columns)):
            yield _of_arrow(batch)


class _CsvTable(Table):
    def __init__(self, source: str, path: Path) -> None:
        self._path = path
        with self._open() as reader:
            super().__init__(source, *_numeric(reader.schema))

    def blocks(self) -> Iterator[Block]:
        with self._open() as reader:
            for batch in reader:
                block = _of_arrow(batch.select(list(self.columns)))
                for start in range(0, len(block), BLOCK):
                    yield block[start : start + BLOCK]

    def _open(self) -> Any:
        from pyarrow import csv

        return csv.open_csv(self._path, convert_options=csv.ConvertOptions(strings_can_be_null=True))


class _TensorTable(Table):
    """Tensors of as many rows each, side by side; a column is ``<tensor>.<number>``."""

    def __init__(
        self,
        source: str,
        widths: dict[str, int],
        read: Callable[[str], Iterator[Block]],
        skipped: Sequence[str],
    ) -> None:
        self._names = list(widths)
        self._read = read
        columns = [f"{name}.{place}" for name, width in widths.items() for place in range(width)]
        super().__init__(source, columns, skipped)

    def blocks(self) -> Iterator[Block]:
        for parts in zip(*(self._read(name) for name in self._names), strict=True):
            yield np.concatenate(parts, axis=1)


class ChosenColumns(Table):
    """Some columns of a table.

    Args:
        table: The whole.
        patterns: Glob patterns over names of columns.

    Raises:
        ValueError: If one matches none.
    """

    def __init__(self, table: Table, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in table.columns):
                raise ValueError(
                    f"{table.source}: columns {pattern!r} matches none of {', '.join(table.columns[:4])}, ..."
                )
        self._table = table
        self._places = [
            place
            for place, name in enumerate(table.columns)
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        ]
        super().__init__(table.source, [table.columns[place] for place in self._places], table.skipped)

    def blocks(self) -> Iterator[Block]:
        """The same rows, of these columns."""
        for block in self._table.blocks():
            yield block[:, self._places]


def open_table(source: str, data_dir: Path | None = None) -> Table:
    """Open a table; only its head is read.

    Args:
        source: Path of a ``.parquet``, ``.csv``, ``.npz`` or ``.safetensors`` file, or ``sklearn:NAME`` for a table
            that scikit-learn brings. ``FILE#PATTERN`` takes those tensors of a file with many, such as one weight of a
            network, whose rows are then vectors.
        data_dir: Folder that relative paths start from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind, or holds no numbers.
    """
    if source.startswith(SKLEARN):
        return _bundled(source)
    name, _, pattern = source.partition("#")
    path = (data_dir or Path()) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    try:
        if path.suffix == ".parquet":
            return _ParquetTable(source, path)
        if path.suffix == ".csv":
            return _CsvTable(source, path)
        if path.suffix == ".npz":
            return _npz(source, path, pattern or "*")
        if path.suffix == ".safetensors":
            return _safetensors(source, path, pattern or "*")
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected a table, cannot be read ({error})") from error
    except Exception as error:  # pyarrow and safetensors have errors of their own
        if type(error).__module__.startswith(("pyarrow", "safetensors")):
            raise ValueError(f"{path}: expected a table, cannot be read ({error})") from error
        raise
    raise ValueError(
        f"{path}: expected .parquet, .csv, .npz or .safetensors, got {path.suffix or 'no ending'}"
    )


def _bundled(source: str) -> Table:
    from sklearn import datasets

    name = source.removeprefix(SKLEARN)
    if name not in _BUNDLED:
        raise ValueError(f"{source}: scikit-learn's tables are {', '.join(_BUNDLED)}")
    bunch = getattr(datasets, f"load_{name}")()
    values = np.asarray(bunch.data, dtype=np.float32)

    class Bundled(Table):
        def blocks(self) -> Iterator[Block]:
            for start in range(0, len(values), BLOCK):
                yield values[start : start + BLOCK]

    return Bundled(source, [str(column) for column in bunch.feature_names])


def _safetensors(source: str, path: Path, pattern: str) -> Table:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def read(name: str) -> Iterator[Block]:
        with safe_open(path, framework="pt") as file:
            rows = file.get_slice(name)
            for start in range(0, shapes[name][0], BLOCK):
                yield rows[start : start + BLOCK].float().reshape(-1, _width(shapes[name])).numpy()

    return _of_shapes(source, path, shapes, pattern, read)


def _npz(source: str, path: Path, pattern: str) -> Table:
    shapes: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                shape, fortran, kind = _header(stream)
            if not fortran and kind.kind in "fiub":
                shapes[member.removesuffix(".npy")] = shape

    def read(name: str) -> Iterator[Block]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            shape, _, kind = _header(stream)
            width = _width(shape)
            for start in range(0, shape[0], BLOCK):
                rows = min(BLOCK, shape[0] - start)
                data = stream.read(rows * width * kind.itemsize)
                yield np.frombuffer(data, kind).reshape(rows, width).astype(np.float32)

    return _of_shapes(source, path, shapes, pattern, read)


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an array in numpy's format; the stream stands at its first number then."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"expected numpy's format 1.0 or 2.0, found {version}")
    shape, fortran, kind = read[version](stream)
    return shape, fortran, kind


def _of_shapes(
    source: str,
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    pattern: str,
    read: Callable[[str], Iterator[Block]],
) -> Table:
    chosen = {name: shape for name, shape in shapes.items() if fnmatchcase(name, pattern) and shape}
    if not chosen:
        raise ValueError(f"{path}: {pattern!r} matches none of its tensors {', '.join(list(shapes)[:8])}")
    rows = next(iter(chosen.values()))[0]
    widths = {name: _width(shape) for name, shape in chosen.items() if shape[0] == rows}
    skipped = [name for name in chosen if name not in widths]
    if skipped and pattern == "*":
        raise ValueError(
            f"{path}: expected tensors of as many rows each, found {rows} of {next(iter(chosen))} and "
            f"{chosen[skipped[0]][0]} of {skipped[0]}; choose some with {path.name}#PATTERN"
        )
    return _TensorTable(source, widths, read, skipped)


def _width(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[1:], dtype=np.int64))


def _numeric(schema: Any) -> tuple[list[str], list[str]]:
    """Names of the columns with numbers, and of the others."""
    import pyarrow

    kinds = (pyarrow.types.is_floating, pyarrow.types.is_integer, pyarrow.types.is_boolean)
    taken = [field.name for field in schema if any(kind(field.type) for kind in kinds)]
    return taken, [field.name for field in schema if field.name not in taken]


def _of_arrow(batch: Any) -> Block:
    columns = [
        column.cast("float32", safe=False).to_numpy(zero_copy_only=False).astype(np.float32)
        for column in batch.columns
    ]
    return np.stack(columns, axis=1)
