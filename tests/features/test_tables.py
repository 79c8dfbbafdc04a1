"""Tables of all kinds, read a block at a time."""

from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import csv, parquet
from safetensors.torch import save_file

from fulgurite.features.tables import BLOCK, open_table

ROWS = BLOCK + 7  # two blocks


def _values(rows: int = ROWS, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def _write(folder: Path, kind: str, values: np.ndarray) -> Path:
    path = folder / f"table.{kind}"
    table = pyarrow.table(
        {"a": values[:, 0], "word": ["x"] * len(values), "b": values[:, 1], "c": values[:, 2]}
    )
    if kind == "parquet":
        parquet.write_table(table, path)
    elif kind == "csv":
        csv.write_csv(table, path)
    elif kind == "npz":
        np.savez_compressed(path, a=values[:, :1], bc=values[:, 1:])
    else:
        tensors = {"a": torch.from_numpy(values[:, 0].copy()), "bc": torch.from_numpy(values[:, 1:].copy())}
        save_file(tensors, path)
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "npz", "safetensors"])
def test_every_kind_gives_the_same_numbers_in_blocks(kind: str, tmp_path: Path) -> None:
    values = _values()
    table = open_table(str(_write(tmp_path, kind, values)))
    blocks = list(table.blocks())
    assert len(blocks) > 1
    assert max(map(len, blocks)) <= BLOCK
    np.testing.assert_allclose(np.concatenate(blocks), values, rtol=1e-6)
    assert table.columns == (("a", "b", "c") if kind in ("parquet", "csv") else ("a.0", "bc.0", "bc.1"))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_of_words_are_left_out_and_named(kind: str, tmp_path: Path) -> None:
    assert open_table(str(_write(tmp_path, kind, _values(5)))).skipped == ("word",)


def test_empty_cells_are_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n,4\n5,\n")
    (block,) = open_table(str(path)).blocks()
    assert np.isnan(block).tolist() == [[False, False], [True, False], [False, True]]


def test_one_weight_of_a_network_is_a_table_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x.weight": torch.ones(4, 6).bfloat16(), "y.weight": torch.zeros(3)}, path)
    table = open_table(f"{path}#x.*")
    assert table.columns[0] == "x.weight.0"
    assert np.concatenate(list(table.blocks())).shape == (4, 6)


def test_tensors_of_different_lengths_must_be_chosen_from(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(4, 6), "y": torch.zeros(3, 6)}, path)
    with pytest.raises(ValueError, match="choose some with model.safetensors#PATTERN"):
        open_table(str(path))


def test_scikit_learn_brings_tables() -> None:
    assert np.concatenate(list(open_table("sklearn:digits").blocks())).shape == (1797, 64)
    with pytest.raises(ValueError, match="scikit-learn's tables are"):
        open_table("sklearn:nothing")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", b"1 2", "expected .parquet, .csv, .npz or .safetensors, got .txt"),
        ("t.parquet", b"PAR1 broken", "cannot be read"),
        ("t.npz", b"no archive", "cannot be read"),
        ("t.safetensors", b"\x01\x02", "cannot be read"),
        ("t.csv", b"a,b\nx,y\n", "expected columns of numbers, found none"),
    ],
)
def test_what_is_no_table_is_named(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        open_table(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.csv: no such table"):
        open_table("gone.csv", tmp_path)
