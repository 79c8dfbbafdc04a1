"""Curves measured on rows of a weight stand for the whole of it."""

import pytest
import torch

from fulgurite.allocation import measure
from fulgurite.calibration import Metric
from fulgurite.codecs import Float16Codec, UniformCodec, VptqCodec, decode


def test_a_small_weight_is_measured_whole() -> None:
    torch.manual_seed(0)
    weight, row_weight = torch.randn(24, 32), torch.rand(24)
    inputs = torch.randn(64, 32)
    hessian = inputs.T @ inputs / 64
    codec = UniformCodec(bits=3, group_size=16)
    (found,) = measure(weight, [codec], Metric(hessian, row_weight)).candidates
    encoded = codec.encode(weight, hessian, row_weight)
    error = weight - decode(encoded)
    assert found.num_bytes == encoded.num_bytes
    expected = (row_weight[:, None] * (error @ hessian) * error).sum()
    assert found.distortion == pytest.approx(float(expected), rel=1e-4)


def test_rows_stand_for_the_whole_weight() -> None:
    weight = torch.randn(1000, 64, generator=torch.manual_seed(0))
    codecs = [UniformCodec(bits=2, group_size=64), UniformCodec(bits=4, group_size=64), Float16Codec()]
    some = measure(weight, codecs, most=128 * 64).candidates  # 128 of 1000 rows
    for found, codec in zip(some, codecs, strict=True):
        encoded = codec.encode(weight)
        assert found.num_bytes == pytest.approx(encoded.num_bytes, rel=1e-3)
        # 8192 of 64000 errors: a few per cent
        assert found.distortion == pytest.approx(float((weight - decode(encoded)).square().sum()), rel=0.1)


def test_a_codebook_is_not_multiplied_by_rows() -> None:
    weight = torch.randn(512, 32, generator=torch.manual_seed(0))
    codec = VptqCodec(vector_length=2, codebook_size=256)  # 1 kB of codebook beside 8 kB of codes
    (found,) = measure(weight, [codec], most=128 * 32).candidates
    # the codebook alone, taken four times, would be 3 kB too many
    assert found.num_bytes == pytest.approx(codec.encode(weight).num_bytes, rel=0.02)


def test_energy_in_the_rows_that_are_left_out_counts() -> None:
    weight = torch.ones(64, 16)
    weight[1::2] = 3.0  # every second row; the sample takes 16 of 64, all of the quiet ones
    weight += 0.1 * torch.randn(64, 16, generator=torch.manual_seed(0))
    (found,) = measure(weight, [UniformCodec(bits=2, group_size=16)], most=1).candidates
    sample = weight[::4]
    error = float((sample - decode(UniformCodec(bits=2, group_size=16).encode(sample))).square().sum())
    growth = float(weight.square().sum() / sample.square().sum())
    assert found.distortion == pytest.approx(error * growth, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (7,), (3, 2, 2, 2)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.manual_seed(0))
    coarse, fine = measure(weight, [UniformCodec(bits=1, group_size=8), Float16Codec()], most=4).candidates
    assert fine.num_bytes == 2 * weight.numel()
    assert fine.distortion < coarse.distortion or shape == (
        40,
        1,
    )  # one weight a row: a grid of one level is exact


def test_zeros_cost_no_distortion_and_are_not_probed() -> None:
    found = measure(torch.zeros(32, 16), [UniformCodec(bits=2)], losses=lambda new: pytest.fail("no need"))
    assert found.candidates[0].distortion == 0
    assert found.effects == ()


def test_a_metric_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"error must be \[4, 9\] to fit the metric, got \[4, 8\]"):
        measure(torch.ones(4, 8), [UniformCodec()], Metric(torch.eye(9)))
    with pytest.raises(ValueError, match="cost of an error must be finite, got nan"):
        measure(torch.ones(4, 8), [UniformCodec()], Metric(torch.full((8, 8), float("nan"))))
