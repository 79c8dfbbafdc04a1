"""Principal angles and distances against subspaces whose angles are known by construction."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fulgurite.analysis.activations import compare_inputs
from fulgurite.analysis.subspaces import (
    choose_rank,
    compare_subspaces,
    grassmann_distances,
    principal_angles,
    weight_subspaces,
)


def turned(degrees: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bases of two subspaces of ``R^(2k)``: axis ``i`` is turned by an angle towards axis ``k + i``."""
    k = len(degrees)
    first = np.eye(2 * k)[:, :k]
    radians = np.radians(degrees)
    return first, np.vstack([np.diag(np.cos(radians)), np.diag(np.sin(radians))])


def test_angles_are_those_by_which_axes_were_turned_whatever_the_bases() -> None:
    degrees = [70.0, 30.0, 5.0]
    first, second = turned(degrees)
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]  # of the whole space
    mixed = second @ rng.normal(size=(3, 3))  # another, oblique basis of the same subspace
    assert np.degrees(principal_angles(rotation @ first, rotation @ mixed)) == pytest.approx(degrees)


def test_distances_are_their_formulas() -> None:
    found = grassmann_distances(np.radians([60.0, 30.0]))
    assert found.geodesic == pytest.approx(math.hypot(math.pi / 3, math.pi / 6))
    assert found.chordal == pytest.approx(1.0)  # sin^2 60 + sin^2 30 = 3/4 + 1/4
    assert found.projection == pytest.approx(math.sqrt(3) / 2)


def test_chordal_and_projection_distances_are_norms_of_the_difference_of_projections() -> None:
    rng = np.random.default_rng(1)
    first, second = (np.linalg.qr(rng.normal(size=(9, 4)))[0] for _ in range(2))
    difference = first @ first.T - second @ second.T
    found = compare_subspaces(first, second).distances
    assert found.chordal == pytest.approx(np.linalg.norm(difference) / math.sqrt(2))
    assert found.projection == pytest.approx(np.linalg.norm(difference, 2))


def test_a_direction_that_is_missing_is_at_a_right_angle() -> None:
    axes = np.eye(5)
    found = compare_subspaces(axes[:, :3], axes[:, :1])
    assert np.degrees(found.angles) == pytest.approx([90, 90, 0])
    assert found.overlap == pytest.approx(1 / 3)
    assert compare_subspaces(axes[:, :2], axes[:, :0]).overlap == pytest.approx(0)


def test_chance_is_the_overlap_of_random_subspaces() -> None:
    rng = np.random.default_rng(2)
    overlaps = []
    for _ in range(200):
        first, second = (np.linalg.qr(rng.normal(size=(20, 5)))[0] for _ in range(2))
        overlaps.append(compare_subspaces(first, second).overlap)
    # 5 of 20 dimensions; the mean of 200 draws has a standard error below 0.01
    assert np.mean(overlaps) == pytest.approx(0.25, abs=0.03)


def test_rank_is_the_first_to_hold_the_energy() -> None:
    energies = np.array([6.0, 3.0, 1.0])
    assert [choose_rank(energies, share) for share in (0.5, 0.6, 0.61, 0.9, 1.0)] == [1, 1, 2, 2, 3]
    assert choose_rank(energies, 0.9, rank=7) == 3
    assert choose_rank(np.zeros(3), 0.9) == 1


@pytest.mark.parametrize(("energy", "rank"), [(0.0, None), (1.1, None), (0.9, 0)])
def test_settings_out_of_range_are_refused(energy: float, rank: int | None) -> None:
    with pytest.raises(ValueError, match="got"):
        choose_rank(np.ones(3), energy, rank)


def test_a_weight_whose_outputs_are_rotated_keeps_its_space_of_inputs() -> None:
    first, second = turned([40.0, 40.0])
    values = torch.diag(torch.tensor([3.0, 2.0], dtype=torch.float64))
    right = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64))[0]
    weights = [torch.from_numpy(left) @ values @ right.T for left in (first, second)]
    [found] = weight_subspaces({"w": weights[0]}, {"w": weights[1]}, rank=2)
    assert found.left.mean_degrees == pytest.approx(40)
    assert found.right.largest_degrees == pytest.approx(0, abs=1e-5)
    assert found.energy == pytest.approx(1)
    # |a - b|^2 = 2 |a|^2 (1 - cos 40): both directions are turned alike
    assert found.error == pytest.approx(2 * (1 - math.cos(math.radians(40))))


def test_a_weight_of_lower_rank_lacks_directions() -> None:
    weight = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    [found] = weight_subspaces({"w": weight}, {"w": torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0]))}, rank=4)
    assert (found.left.rank, found.left.other_rank) == (4, 2)
    assert found.left.overlap == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"w": torch.ones(2, 3)}, r"w: both networks must have the same shape, got \[3, 2\] and \[2, 3\]"),
        ({"v": torch.ones(3, 2)}, "w only here, v only there"),
        ({"w": torch.full((3, 2), math.nan)}, "w: expected finite"),
    ],
)
def test_other_networks_are_refused(other: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        weight_subspaces({"w": torch.ones(3, 2)}, other)


def test_no_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one weight"):
        weight_subspaces({}, {})


class TwoLayers(nn.Module):
    def __init__(self, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 4)
        with torch.no_grad():
            self.first.weight.copy_(second)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


def test_inputs_of_a_layer_that_are_rotated_have_equal_cka_and_other_subspaces() -> None:
    swap = torch.eye(6)[[3, 4, 5, 0, 1, 2]]
    plain, rotated = TwoLayers(torch.eye(6)), TwoLayers(swap)
    scales = torch.tensor([5.0, 4.0, 3.0, 0.1, 0.1, 0.1])
    batches = [{"x": torch.randn(4, 10, 6) * scales} for _ in range(3)]
    found = {
        one.name: one
        for one in compare_inputs(plain, rotated, batches, ["first.weight", "second.weight"], rank=3)
    }
    assert found["first.weight"].subspaces.overlap == pytest.approx(1)  # the batch itself
    assert found["first.weight"].error == 0
    assert found["second.weight"].cka == pytest.approx(1)
    assert found["second.weight"].subspaces.overlap == pytest.approx(0, abs=1e-3)
    assert found["second.weight"].count == 120


def test_positions_without_text_do_not_count() -> None:
    networks = TwoLayers(torch.eye(6)), TwoLayers(torch.eye(6))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    [found] = compare_inputs(
        *networks, [{"x": torch.randn(2, 5, 6), "attention_mask": mask}], ["first.weight"]
    )
    assert found.count == 5


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        compare_inputs(TwoLayers(torch.eye(6)), TwoLayers(torch.eye(6)), [], ["first.weight"])
