"""Outputs of layers as a table."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fulgurite.features.collecting import Call, collect, write_features
from fulgurite.features.tables import open_table


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


INPUTS = [torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def calls(network: Net) -> Iterator[Call]:
    for x in INPUTS:
        yield Call(lambda x=x: network(x), MASK)  # type: ignore[misc]


def test_a_row_for_each_token_that_counts() -> None:
    network = Net()
    parts = list(collect(network, calls(network), ["first", "second"]))
    found = torch.cat([part["first"] for part in parts])
    assert found.shape == (3 * 8, 4)
    torch.testing.assert_close(found[:8], network.first(INPUTS[0])[MASK.bool()])
    assert torch.cat([part["second"] for part in parts]).shape == (24, 2)
    assert not network.first._forward_hooks  # they are gone


def test_a_row_for_each_item_is_the_mean_of_what_counts() -> None:
    network = Net()
    part = next(iter(collect(network, calls(network), ["first"], "item")))
    torch.testing.assert_close(part["first"][0], network.first(INPUTS[0][0, :3]).mean(0))


def test_the_limit_is_kept() -> None:
    network = Net()
    assert sum(len(part["first"]) for part in collect(network, calls(network), ["first"], limit=11)) == 11


@pytest.mark.parametrize("ending", ["parquet", "safetensors", "npz"])
def test_what_is_written_is_a_table(ending: str, tmp_path: Path) -> None:
    network = Net()
    path = tmp_path / "out" / f"t.{ending}"
    sizes = write_features(path, collect(network, calls(network), ["first", "second"]))
    assert sizes == {"first": (24, 4), "second": (24, 2)}
    table = open_table(str(path))
    assert sorted(table.columns) == ["first.0", "first.1", "first.2", "first.3", "second.0", "second.1"]
    assert np.concatenate(list(table.blocks())).shape == (24, 6)


def test_layers_that_cannot_be_taken_are_named(tmp_path: Path) -> None:
    network = Net()
    with pytest.raises(ValueError, match="layers 'third' matches no module of Net"):
        list(collect(network, calls(network), ["third"]))
    with pytest.raises(ValueError, match="layer unused: expected an output, it is not called"):
        list(collect(network, calls(network), ["unused"]))
    with pytest.raises(ValueError, match="expected rows to write, found none"):
        write_features(tmp_path / "t.npz", [])
    with pytest.raises(ValueError, match="expected .parquet, .safetensors or .npz, got .txt"):
        write_features(tmp_path / "t.txt", [])
