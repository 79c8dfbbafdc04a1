"""Hyper-compression: its trajectories against exact references, its storage, its rate and distortion."""

from __future__ import annotations

import dataclasses
import math
import os
from decimal import Decimal, getcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fulgurite.codecs import HyperCodec, decode, nmse
from fulgurite.codecs._hyper_feedback import place_in_turn, round_in_turn
from fulgurite.codecs._trajectories import _DIRECTIONS, basis, nearest, outward, winding

DATA = Path(os.environ.get("FULGURITE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TRAJECTORIES = [
    HyperCodec("ergodic", num_points=400),
    HyperCodec("ergodic", dimension=3, num_points=500),
    HyperCodec("grid", num_points=400),
    HyperCodec("grid", dimension=3, num_points=512),
    HyperCodec("ergodic", num_points=400, entropy=True),
    HyperCodec("grid", num_points=400, entropy=True),
    HyperCodec("polynomial", degree=11, coefficient_bits=4),
    HyperCodec("fourier", block_size=8, degree=3, coefficient_bits=2, entropy=True),
]
trajectories = pytest.mark.parametrize(
    "codec", TRAJECTORIES, ids=lambda c: f"{c.trajectory}{c.dimension}{'-entropy' * c.entropy}"
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gap_db(weight: torch.Tensor, codec: HyperCodec) -> float:
    """Decibels from the Gaussian bound ``D = 2**(-2 R)`` at the codec's own rate."""
    encoded = codec.encode(weight)
    return 10 * math.log10(nmse(weight, decode(encoded)) * 4**encoded.bits_per_weight)


@pytest.mark.parametrize("dimension", [2, 3])
def test_ergodic_directions_are_powers_of_the_generalised_golden_ratio(dimension: int) -> None:
    getcontext().prec = 40
    ratio = Decimal("1.2")
    for _ in range(100):  # Newton's method on g^(K+1) - g - 1
        value = ratio ** (dimension + 1) - ratio - 1
        ratio -= value / ((dimension + 1) * ratio**dimension - 1)
    exact = tuple(round(2**32 / ratio**k) for k in range(1, dimension + 1))
    assert exact == _DIRECTIONS[dimension]


@pytest.mark.parametrize("dimension", [2, 3])
def test_ergodic_points_are_exact_where_float32_steps_would_drift(dimension: int) -> None:
    points = winding("ergodic", dimension, 16384)
    for step in (
        0,
        1,
        777,
        16383,
    ):  # 16383 * a is 10^4 turns: float32 would keep only 10 bits of the fraction
        for k, direction in enumerate(_DIRECTIONS[dimension]):
            turn = (step * direction + 2**31) % 2**32
            assert points[step, k].item() == (turn // 256) / 2**23 - 1


def test_ergodic_points_cover_the_square_without_holes() -> None:
    probes = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for num_points in (64, 400, 1600, 16384):
        points = winding("ergodic", 2, num_points)
        error = (points[nearest(probes, points)] - probes).square().mean()
        grid = 1 / (3 * num_points)  # squares of side 2 / sqrt(N) have (2 / sqrt(N))^2 / 12 an axis
        # hexagons, the best, have 0.962 of it; stripes (a direction close to a rational one) more than 2
        assert 0.96 * grid < error < 1.5 * grid, num_points


@pytest.mark.parametrize(("dimension", "side"), [(2, 40), (3, 12)])
def test_grid_points_are_a_sheared_grid(dimension: int, side: int) -> None:
    points = winding("grid", dimension, side**dimension).double()
    assert len({tuple(point) for point in points.tolist()}) == side**dimension
    torch.testing.assert_close(points.mean(0), torch.zeros(dimension).double(), atol=1e-7, rtol=0)  # centred
    # each of the side^K cells holds one point: the shear moves a point inside its cell only
    cells = ((points + 1) / 2 * side).floor().long()
    assert len({tuple(cell) for cell in cells.tolist()}) == side**dimension
    last = points[:, -1].unique()  # the fastest axis is not sheared: side values, evenly spaced
    torch.testing.assert_close(last.diff(), torch.full((side - 1,), 2 / side).double(), atol=1e-6, rtol=0)


def test_nearest_agrees_with_comparing_each_pair() -> None:
    vectors, points = gaussian(300, 3), winding("ergodic", 3, 1000)
    found = nearest(vectors, points)
    for vector, step in zip(vectors.double(), found, strict=True):
        distances = [float((vector - point).square().sum()) for point in points.double()]
        assert distances[int(step)] <= min(distances) + 1e-6  # float32 distances of about 1 to 10


def test_outward_orders_points_by_distance() -> None:
    points = winding("ergodic", 2, 1600)
    radius = points[outward(points)].double().norm(dim=1)
    assert (radius.diff() >= 0).all()


@pytest.mark.parametrize("trajectory", ["polynomial", "fourier"])
@pytest.mark.parametrize("block_size", [2, 16, 64, 128])
def test_bases_are_orthonormal_up_to_the_last_degree(trajectory: str, block_size: int) -> None:
    columns = basis(trajectory, block_size, block_size - 1).double()
    # rounding each entry to float32 leaves about 6e-8 an entry
    torch.testing.assert_close(columns.T @ columns, torch.eye(block_size).double(), atol=2e-6, rtol=0)


def test_the_polynomial_basis_fits_as_least_squares_on_legendre_polynomials() -> None:
    positions = np.linspace(-1, 1, 16)
    design = np.polynomial.legendre.legvander(positions, 5)
    block = gaussian(16).double().numpy()
    fitted = design @ np.linalg.lstsq(design, block, rcond=None)[0]
    columns = basis("polynomial", 16, 5).double().numpy()
    np.testing.assert_allclose(columns @ (columns.T @ block), fitted, atol=1e-6)


@pytest.mark.parametrize("trajectory", ["polynomial", "fourier"])
def test_a_complete_basis_leaves_only_the_rounding(trajectory: str) -> None:
    weight = gaussian(64, 96)
    codec = HyperCodec(trajectory, block_size=16, degree=15, coefficient_bits=8)
    # 127 levels reach a largest coefficient of at most 4 sigma: (4 / 127)^2 / 12
    assert nmse(weight, decode(codec.encode(weight))) < 8.3e-5


@pytest.mark.parametrize("trajectory", ["polynomial", "fourier"])
def test_noise_loses_the_share_of_coefficients_that_is_dropped(trajectory: str) -> None:
    weight = gaussian(64, 96)
    error = nmse(weight, decode(HyperCodec(trajectory, block_size=16, degree=7).encode(weight)))
    assert error == pytest.approx(0.5, abs=0.03)  # 8 of 16; 3 standard deviations of 3072 squares


def test_a_smooth_weight_needs_few_coefficients() -> None:
    position = torch.linspace(-1, 1, 32)
    powers = torch.stack([position**k for k in range(4)])
    weight = (gaussian(20, 4) @ powers).reshape(20, 32)  # each block of 32 is a cubic
    encoded = HyperCodec("polynomial", block_size=32, degree=3).encode(weight)
    assert nmse(weight, decode(encoded)) < 1e-3  # 8-bit coefficients; noise would lose 7/8 of the energy
    assert encoded.bits_per_weight < 2


def test_bytes_are_what_the_docstring_says() -> None:
    winding_bytes = HyperCodec(num_points=1600, num_classes=3).encode(gaussian(10, 33)).num_bytes
    assert winding_bytes == math.ceil(165 * 13 / 8) + 2 * 10 + 2 * 4  # 165 pairs, 10 rows, 4 classes
    cubes = HyperCodec(dimension=3, num_points=512, num_classes=0).encode(gaussian(10, 33)).num_bytes
    assert cubes == math.ceil(110 * 9 / 8) + 2 * 10 + 2
    curve = HyperCodec("fourier", block_size=16, degree=5, coefficient_bits=5).encode(gaussian(10, 33))
    assert curve.num_bytes == math.ceil(21 * 6 * 5 / 8) + 2 * 10 + 2 * 6  # 330 weights, 21 blocks


@trajectories
def test_no_trajectory_brings_free_bits(codec: HyperCodec) -> None:
    # the bound holds for each code of independent Gaussian weights; the sample's own energy is within 1 %
    assert gap_db(gaussian(128, 256), codec) > 0


@pytest.mark.parametrize("trajectory", ["ergodic", "grid"])
def test_entropy_coding_brings_a_winding_close_to_a_uniform_scalar_quantiser(trajectory: str) -> None:
    weight = gaussian(256, 512)
    coded = gap_db(weight, HyperCodec(trajectory, num_points=1024, entropy=True))
    # 1.53 dB is entropy-coded rounding, which a plane's square cells equal; shells, tables and uneven cells cost
    assert 1.3 < coded < 2.6
    assert coded < gap_db(weight, HyperCodec(trajectory, num_points=1024)) - 3


def test_a_stream_is_stored_only_where_it_is_smaller() -> None:
    tiny = gaussian(4, 8)  # 16 pairs: the histogram would be longer than the codes
    assert HyperCodec("grid", entropy=True).encode(tiny).tensors.keys() == {"codes", "extents", "scale"}
    assert HyperCodec("fourier", entropy=True).encode(tiny).tensors.keys() == {"codes", "steps", "scale"}


def test_classes_pay_for_heavy_tails() -> None:
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.standard_t(4, size=(128, 256))).float()
    with_classes = HyperCodec("grid", num_points=1600, num_classes=3).encode(weight)
    without = HyperCodec("grid", num_points=6400, num_classes=0).encode(weight)
    assert with_classes.num_bytes == without.num_bytes + 6  # 13 bits a pair both; three more extents
    assert nmse(weight, decode(with_classes)) < 0.7 * nmse(weight, decode(without))


def test_rows_of_any_size_share_a_block() -> None:
    weight = gaussian(9, 7) * torch.logspace(-3, 3, 9)[:, None]  # odd rows: pairs and blocks cross them
    for codec in (HyperCodec(), HyperCodec(dimension=3), HyperCodec("polynomial", degree=15)):
        decoded = decode(codec.encode(weight))
        for row, row_hat in zip(weight, decoded, strict=True):
            assert nmse(row, row_hat) < 0.05


@trajectories
@pytest.mark.parametrize("severe", [False, True])
def test_each_step_of_the_ladder_loses_less(codec: HyperCodec, severe: bool) -> None:
    weight, errors = gaussian(64, 96), []
    step: HyperCodec | None = codec
    while step is not None:
        errors.append(nmse(weight, decode(step.encode(weight))))
        step = step.relaxed(severe)
    assert len(errors) > 2
    assert all(after < before for before, after in pairwise(errors)), errors


def mixed(width: int) -> torch.Tensor:
    """Second moment of inputs of which every other two have correlation 0.8, of different sizes."""
    place, size = torch.arange(width), torch.linspace(0.5, 2, width)
    apart = (place[:, None] - place).abs()
    return torch.where(apart % 2 == 0, 0.8**apart, 0).float() * torch.outer(size, size)


def test_a_point_under_a_hessian_is_the_nearest_in_its_metric() -> None:
    unit, hessian = gaussian(6, 2), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    points, extents = winding("ergodic", 2, 64), torch.tensor([1.5, 4.0]).half()
    classes, steps = place_in_turn(unit, hessian, points, extents, damping=0.0, any_class=True)
    words = (extents.float()[:, None, None] * points).reshape(-1, 2)
    for weights, found_class, step in zip(unit, classes, steps, strict=True):
        costs = [float((weights - word) @ hessian @ (weights - word)) for word in words]
        assert costs[int(found_class) * 64 + int(step)] <= min(costs) + 1e-5


def test_entropy_coded_classes_are_the_smallest_cubes_that_hold_the_weights() -> None:
    unit, points = gaussian(40, 2), winding("grid", 2, 64)  # one block a row: nothing is corrected before it
    extents = torch.tensor([0.8, 1.6, 4.0]).half()
    classes, _ = place_in_turn(unit, mixed(2), points, extents, damping=0.01, any_class=False)
    largest = unit.abs().amax(1)
    assert classes.tolist() == ((largest > 0.8).int() + (largest > extents[1].item()).int()).tolist()


@pytest.mark.parametrize("trajectory", ["polynomial", "fourier"])
def test_coefficients_under_a_hessian_are_weighted_least_squares(trajectory: str) -> None:
    # steps so fine that rounding is nothing: what is left is what 6 of 16 degrees cannot follow
    unit, hessian, curves = gaussian(5, 16), mixed(16), basis(trajectory, 16, 5)
    steps = torch.full((6,), 2.0**-10).half()
    levels = round_in_turn(unit, hessian, curves, steps * 2**6, top=127, damping=0.0)
    root = torch.linalg.cholesky(hessian.double()).T
    exact = torch.linalg.lstsq(root @ curves.double(), root @ unit.double().T).solution.T
    # a step is 1/16, so a coefficient is off by half of it, and by what it makes up for in those after it
    assert (levels * 2.0**-4 - exact).abs().max() < 2**-4


def test_candidates_have_about_one_bit_more_each() -> None:
    weight = gaussian(64, 96)
    for codec in (
        HyperCodec(),
        HyperCodec("grid", dimension=3, num_points=64),
        HyperCodec("fourier", degree=3),
    ):
        bits = [candidate.encode(weight).bits_per_weight for candidate in codec.candidates()]
        assert len(bits) >= 3
        # the bits of a code are whole: two or three weights share one that is rounded up
        assert all(0.6 < after - before < 1.4 for before, after in pairwise(bits))


def test_a_severe_step_is_larger_than_a_mild_one() -> None:
    weight = gaussian(64, 96)
    for codec in (HyperCodec(num_points=64), HyperCodec("fourier", degree=3)):
        mild, severe = codec.relaxed(severe=False), codec.relaxed(severe=True)
        assert mild is not None
        assert severe is not None
        assert severe.encode(weight).num_bytes > mild.encode(weight).num_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trajectory": "spiral"}, r"trajectory must be one of ergodic, .*, got 'spiral'"),
        ({"dimension": 4}, r"dimension must be 2 or 3, got 4"),
        ({"num_points": 20000}, r"num_points must be in \[2, 16384\], got 20000"),
        ({"num_classes": 4}, r"num_classes must be in \[0, 3\], got 4"),
        ({"trajectory": "grid", "num_points": 1000}, r"must be a square, for instance 1024, got 1000"),
        ({"trajectory": "grid", "num_points": 1600, "dimension": 3}, r"must be a cube, for instance 1728"),
        ({"block_size": 129}, r"block_size must be in \[2, 128\], got 129"),
        ({"block_size": 8, "degree": 8}, r"degree must be in \[0, 7\], got 8"),
        ({"coefficient_bits": 1}, r"coefficient_bits must be in \[2, 8\], got 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyperCodec(**settings)


def test_damaged_parts_are_refused() -> None:
    encoded = HyperCodec(num_points=1600, num_classes=3).encode(gaussian(8, 8))
    with pytest.raises(ValueError, match="codes must name 1600 points in 4 classes"):
        decode(encoded.with_tensors(codes=torch.full_like(encoded.tensors["codes"], 255)))  # 8191 >= 6400
    with pytest.raises(ValueError, match=r"extents must have shape \(4,\), got \(3,\)"):
        decode(encoded.with_tensors(extents=encoded.tensors["extents"][:3]))
    with pytest.raises(ValueError, match=r"scale must have shape \(8,\), got \(4,\)"):
        decode(encoded.with_tensors(scale=encoded.tensors["scale"][:4]))
    for meta in ({"pace": 3}, {**encoded.meta, "num_points": "many"}):
        with pytest.raises(ValueError, match="meta of hyper does not hold its settings"):
            decode(dataclasses.replace(encoded, meta=meta))


@pytest.mark.skipif(not (DATA / "models" / "stories260K").is_dir(), reason=f"no models/stories260K in {DATA}")
def test_trained_weights_behave_like_noise_with_heavier_tails() -> None:
    from safetensors.torch import load_file

    network = load_file(DATA / "models" / "stories260K" / "model.safetensors")
    weight = network["model.layers.2.mlp.up_proj.weight"].float()  # [172, 64]
    faithful = HyperCodec("grid").encode(weight)
    assert faithful.bits_per_weight == pytest.approx(6.5 + 16 / 64, abs=0.01)
    assert nmse(weight, decode(faithful)) < 1.5e-3  # Gaussian weights have 6e-4
    smooth = HyperCodec("polynomial", block_size=16, degree=7).encode(weight)
    assert nmse(weight, decode(smooth)) > 0.4  # a smooth row would lose far less than half its energy
