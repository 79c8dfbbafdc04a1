"""Sensitivity: which layer costs what, on networks where the answer is known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fulgurite.analysis.profile import profile_network
from fulgurite.analysis.sensitivity import divergence_score, layer_groups, measure_sensitivity
from fulgurite.evaluation.measure import Measure


class Sum(nn.Module):
    """Two scales: the output is the input times their sum, so that damages add up."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.left.weight.fill_(1.0)
            self.right.weight.fill_(2.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.left(x) + self.right(x)
        return out


def distance(network: nn.Module) -> Measure:
    """How far the outputs of 1, 2 and 3 are from 3, 6 and 9."""
    x = torch.tensor([[1.0], [2.0], [3.0]])
    items = (network(x) - 3 * x).abs().detach()[:, 0].double().numpy()
    return Measure("distance", items, np.ones(3), np.ones(3), False, "")


def test_damage_alone_and_mended_are_those_of_the_layer() -> None:
    network = Sum()
    # the outputs change by 0.1 x and by 0.5 x, x is 2 in the mean
    compressed = {"left.weight": torch.tensor([[1.1]]), "right.weight": torch.tensor([[2.5]])}
    found = measure_sensitivity(network, compressed, distance)
    layers = {one.name: one for one in found.layers}
    assert layers["left"].alone.point == pytest.approx(0.2, abs=1e-5)
    assert layers["right"].alone.point == pytest.approx(1.0, abs=1e-5)
    assert layers["right"].mended.point == pytest.approx(1.0, abs=1e-5)
    assert found.damage.point == pytest.approx(1.2, abs=1e-5)
    assert float(network.right.weight.detach()) == 2.0  # as it was


def test_a_layer_can_mend_what_it_breaks_alone() -> None:
    compressed = {"left.weight": torch.tensor([[1.5]]), "right.weight": torch.tensor([[1.5]])}
    found = measure_sensitivity(Sum(), compressed, distance)
    left = found.layers[0]
    assert found.damage.point == pytest.approx(0, abs=1e-5)  # the errors cancel
    assert left.alone.point == pytest.approx(1, abs=1e-5)
    assert left.mended.point == pytest.approx(-1, abs=1e-5)  # exact alone, it makes things worse


def test_layers_without_a_change_are_left_out() -> None:
    compressed = {"left.weight": torch.tensor([[1.0]]), "right.weight": torch.tensor([[2.5]])}
    assert [one.name for one in measure_sensitivity(Sum(), compressed, distance).layers] == ["right"]


def test_weights_come_back_after_a_failure() -> None:
    network = Sum()

    def fails(network: nn.Module) -> Measure:
        if float(network.get_parameter("left.weight").detach()) != 1.0:
            raise RuntimeError("no score")
        return distance(network)

    with pytest.raises(RuntimeError, match="no score"):
        measure_sensitivity(
            network, {"left.weight": torch.ones(1, 1) * 3, "right.weight": torch.ones(1, 1)}, fails
        )
    assert float(network.left.weight.detach()) == 1.0


@pytest.mark.parametrize(
    ("compressed", "said"),
    [
        ({"left.weight": torch.ones(1, 1)}, "right.weight only here"),
        ({"left.weight": torch.ones(1, 1), "right.weight": torch.ones(2, 1)}, "right.weight: both networks"),
        (
            {"left.weight": torch.ones(1, 1), "right.weight": torch.full((1, 1), 2.0)},
            "same weights to the bit",
        ),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(compressed: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        measure_sensitivity(Sum(), compressed, distance)


def test_groups_are_matrices_with_their_biases_or_blocks_with_all_of_theirs() -> None:
    matrix, vector = torch.ones(2, 2), torch.ones(2)
    weights = [("embed.weight", matrix), ("layers.0.q.weight", matrix), ("layers.0.q.bias", vector)]
    weights += [("layers.0.norm.weight", vector), ("norm.weight", vector)]
    assert layer_groups(weights) == {
        "embed": ["embed.weight"],
        "layers.0.q": ["layers.0.q.weight", "layers.0.q.bias"],
        "vectors": ["layers.0.norm.weight", "norm.weight"],
    }
    assert layer_groups(weights, by="block") == {
        "embed": ["embed.weight"],
        "layers.0": ["layers.0.q.weight", "layers.0.q.bias", "layers.0.norm.weight"],
        "vectors": ["norm.weight"],
    }
    with pytest.raises(ValueError, match="layer or block, got 'head'"):
        layer_groups(weights, by="head")


def test_divergence_is_of_the_reference_that_was_scored_first() -> None:
    network = Sum()
    score = divergence_score(
        network, [{"x": torch.ones(1, 1)}], lambda outputs, known, batch: (outputs - known).abs().sum()
    )
    found = measure_sensitivity(
        network, {"left.weight": torch.ones(1, 1) * 2, "right.weight": torch.ones(1, 1) * 2}, score
    )
    assert found.reference.value == 0
    assert found.compressed.value == 1


def test_profile_finds_the_products_of_matrices() -> None:
    found = profile_network(nn.Linear(64, 64), {"input": torch.randn(32, 64)}, passes=2, top=3)
    names = [one.name for one in found.operators]
    assert "aten::addmm" in names
    assert found.operators[names.index("aten::addmm")].calls == 1
    assert sum(one.share for one in found.operators) <= 1 + 1e-9
    # the output: 32 rows of 64 numbers of 4 bytes
    assert max(one.self_bytes for one in found.operators) == 32 * 64 * 4


@pytest.mark.parametrize("setting", ["passes", "top"])
def test_profile_refuses_what_is_below_one(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        profile_network(nn.Linear(2, 2), {"input": torch.ones(1, 2)}, **{setting: 0})
