"""Moments of a layer's inputs in two networks at once."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fulgurite.calibration import call_groups, gather_paired


class Branches(nn.Module):
    """Two layers that read one tensor, one that reads what they make, one that nobody calls, one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(6, 6)
        self.last = nn.Linear(5, 3)
        self.left = nn.Linear(6, 5)
        self.right = nn.Linear(6, 5)
        self.twice = nn.Linear(3, 3)
        self.calls = 0

    def forward(self, values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.left(values)) * self.right(values))
        self.calls += 1
        twice: Tensor = self.twice(self.twice(found))
        return twice


NAMES = ["last", "left", "right", "twice", "unused"]


def two_networks() -> tuple[Branches, Branches]:
    torch.manual_seed(0)
    one = Branches()
    other = deepcopy(one)
    with torch.no_grad():
        other.left.weight.mul_(0.5)
    return one, other


def test_layers_come_in_the_order_of_calls_and_those_of_one_input_together() -> None:
    network, _ = two_networks()
    assert call_groups(network, NAMES, {"values": torch.randn(2, 4, 6)}) == [["left", "right"], ["last"]]


def test_moments_are_those_of_both_networks() -> None:
    one, other = two_networks()
    batches = [{"values": torch.randn(2, 4, 6)} for _ in range(3)]
    found = gather_paired(one, other, ["last"], batches)
    values = torch.cat([batch["values"].flatten(0, 1) for batch in batches])
    x, y = (torch.tanh(each.left(values)) * each.right(values) for each in (one, other))
    assert found.count == 24
    torch.testing.assert_close(found.reference.float(), x.T @ x / 24)
    torch.testing.assert_close(found.cross.float(), x.T @ y / 24)
    torch.testing.assert_close(found.own.float(), y.T @ y / 24)
    torch.testing.assert_close(found.own_mean.float(), y.mean(0))
    centred = found.centred()
    torch.testing.assert_close(centred.own.float(), torch.cov(y.T, correction=0))


def test_a_pass_ends_at_the_layer_that_is_asked_for() -> None:
    one, other = two_networks()
    gather_paired(one, other, ["left"], [{"values": torch.randn(1, 4, 6)}])
    assert one.calls == other.calls == 0
    assert not one.left._forward_pre_hooks


def test_padding_does_not_count() -> None:
    one, other = two_networks()
    values = torch.randn(2, 4, 6)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    found = gather_paired(one, other, ["left"], [{"values": values, "attention_mask": mask}])
    seen = values[mask.bool()]
    assert found.count == 4
    torch.testing.assert_close(found.own.float(), seen.T @ seen / 4)


def test_a_layer_that_no_data_reaches_is_an_error() -> None:
    one, other = two_networks()
    with pytest.raises(ValueError, match="expected calibration data that reaches unused, found none"):
        gather_paired(one, other, ["unused"], [{"values": torch.randn(2, 4, 6)}])
    with pytest.raises(ValueError, match="expected calibration data that reaches left, found none"):
        gather_paired(one, other, ["left"], [])
