"""Entropy-coded trellis quantisation: near the bound, at the rate asked for, by the metric given."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fulgurite.codecs import EcqCodec, Encoded, decode, nmse
from fulgurite.codecs._ecq_fit import count_magnitudes
from fulgurite.codecs._ecq_solution import Blocks, entry_classes
from fulgurite.codecs._ecq_stream import read_stream, write_stream
from fulgurite.codecs._hessian import weighted_error


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gap_in_decibels(weight: torch.Tensor, encoded: Encoded) -> float:
    """How far above the Gaussian bound ``2^(-2 R)`` the error lies, by stored bytes."""
    return 10 * math.log10(nmse(weight, decode(encoded))) + 6.0206 * encoded.bits_per_weight


def correlated(width: int) -> torch.Tensor:
    inputs = gaussian(8 * width, width // 4, seed=1) @ gaussian(width // 4, width, seed=2)
    inputs += 0.3 * gaussian(8 * width, width, seed=3)
    return inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize(
    ("states", "rate", "most"),
    [  # an ideal coder leaves 1.53 dB scalar, about 0.45 with 8 states, 0.2 with 256; the rest is side information
        (1, 0.5, 1.0),
        (1, 2.0, 1.65),
        (8, 1.0, 0.8),
        (8, 2.0, 0.6),
        (8, 4.0, 0.6),
        (256, 2.0, 0.35),
    ],
)
def test_gaussian_weights_come_close_to_the_bound(states: int, rate: float, most: float) -> None:
    weight = gaussian(512, 256)
    assert gap_in_decibels(weight, EcqCodec(rate=rate, states=states).encode(weight)) < most


@pytest.mark.parametrize("rate", [0.1, 0.3, 1.37, 2.5, 7.9])
def test_any_rate_is_met(rate: float) -> None:
    encoded = EcqCodec(rate=rate, states=8).encode(gaussian(256, 256))
    assert 0.93 * rate <= encoded.bits_per_weight <= 1.005 * rate


def test_the_error_that_counts_is_the_metrics() -> None:
    weight, hessian = gaussian(128, 96), correlated(96)
    codec = EcqCodec(rate=2.0, states=8)
    plain = weighted_error(weight - decode(codec.encode(weight)), hessian)
    weighted = weighted_error(weight - decode(codec.encode(weight, hessian)), hessian)
    # three quarters of the directions carry 0.3^2 / (24 + 0.3^2) of the energy: water-filling gains far more than 2
    assert weighted < 0.3 * plain


def test_heavy_rows_get_the_smaller_error() -> None:
    weight = gaussian(128, 96)
    row_weight = torch.ones(128)
    row_weight[::2] = 16.0  # four times finer steps: two bits more than the others
    error = (weight - decode(EcqCodec(rate=2.5, states=8).encode(weight, None, row_weight))).square().mean(1)
    assert error[::2].mean() < 0.15 * error[1::2].mean()


def test_outliers_cost_bits_and_spoil_nothing() -> None:
    weight = gaussian(128, 128)
    weight[3, 5], weight[70, 80] = 100.0, -60.0
    decoded = decode(EcqCodec(rate=3.0, states=8).encode(weight))
    rest = torch.ones_like(weight, dtype=torch.bool)
    rest[3, 5] = rest[70, 80] = False
    assert nmse(weight[rest], decoded[rest]) < 0.025  # 2^-6 = 0.0156 is the bound without outliers
    assert decoded[3, 5] == pytest.approx(100.0, rel=0.05)


@pytest.mark.parametrize(
    "shape", [(1, 1), (3,), (2, 500), (500, 2), (33, 31), (31, 33), (8, 3, 3, 3)], ids=str
)
@pytest.mark.parametrize("with_metric", [False, True])
def test_any_shape_has_a_metric_too(shape: tuple[int, ...], with_metric: bool) -> None:
    weight = gaussian(*shape)
    rows = 1 if len(shape) < 2 else shape[0]
    width = weight.numel() // rows
    metric = (correlated(width) if width >= 4 else torch.eye(width), torch.rand(rows)) if with_metric else ()
    encoded = EcqCodec(rate=4.0, states=8).encode(weight, *metric)
    assert decode(encoded).shape == weight.shape
    assert torch.isfinite(decode(encoded)).all()


def test_zero_rows_columns_and_weights_stay_near_zero() -> None:
    weight = gaussian(64, 64)
    weight[10], weight[:, 20] = 0.0, 0.0
    decoded = decode(EcqCodec(rate=3.0).encode(weight))
    assert decoded[10].abs().mean() < 0.1  # a trellis has no level at zero, but a small first one
    assert nmse(weight, decoded) < 0.05
    zero = EcqCodec().encode(torch.zeros(64, 64))
    assert decode(zero).abs().max() == 0
    assert zero.num_bytes < 64


def test_dead_inputs_and_row_weights_of_zero_are_no_trouble() -> None:
    hessian = correlated(64)
    hessian[7], hessian[:, 7] = 0.0, 0.0
    weight, row_weight = gaussian(64, 64), torch.ones(64)
    row_weight[9] = 0.0
    decoded = decode(EcqCodec(rate=3.0).encode(weight, hessian, row_weight))
    rest = [row for row in range(64) if row != 9]
    kept = torch.tensor([column for column in range(64) if column != 7])
    assert nmse(weight[rest][:, kept], decoded[rest][:, kept]) < 0.2
    singular = torch.ones(64, 64)
    assert torch.isfinite(decode(EcqCodec(rate=3.0).encode(weight, singular))).all()


def test_a_hessian_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="hessian must be finite"):
        EcqCodec().encode(gaussian(8, 4), torch.full((4, 4), torch.nan))


@pytest.mark.parametrize("rotation", ["inputs", "both"])
def test_rotation_spreads_outliers_of_the_metric_and_is_undone(rotation: str) -> None:
    weight = gaussian(96, 80)
    encoded = EcqCodec(rate=4.0, states=8, rotate=rotation, seed=7).encode(weight, correlated(80))  # type: ignore[arg-type]
    assert nmse(weight, decode(encoded)) < 0.05
    again = EcqCodec(rate=4.0, states=8, rotate=rotation, seed=8).encode(weight, correlated(80))  # type: ignore[arg-type]
    assert not torch.equal(decode(again), decode(encoded))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.05}, r"rate must be in \[0.1, 8\] bits per weight, got 0.05"),
        ({"rate": 9.0}, r"rate must be in"),
        ({"states": 3}, r"states must be one of 1, 4, 8, 16, 32, 64, 128, 256, got 3"),
        ({"damping": -1.0}, r"damping must not be negative"),
        ({"rotate": "all"}, r"rotate must be no, inputs or both"),
        ({"seed": -1}, r"seed must be in"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EcqCodec(**settings)  # type: ignore[arg-type]


def test_a_stream_is_read_as_it_was_written() -> None:
    encoded = EcqCodec(rate=3.0, states=16).encode(gaussian(70, 50), correlated(50), torch.rand(70) + 0.1)
    solution, orientation = read_stream(encoded.tensors["stream"], 70, 50)
    assert torch.equal(write_stream(solution, orientation), encoded.tensors["stream"])


@pytest.mark.parametrize(("place", "value"), [(0, 9), (1, 12), (2, 200), (3, 0), (3, 99)])
def test_a_header_that_cannot_be_is_refused(place: int, value: int) -> None:
    stream = EcqCodec(rate=2.0).encode(gaussian(64, 64)).tensors["stream"].clone()
    stream[place] = value
    with pytest.raises(ValueError, match="ecq stream"):
        decode(Encoded("ecq", (64, 64), "float32", {"stream": stream}))


def test_random_bytes_are_refused_or_decode_to_the_shape() -> None:
    stream = EcqCodec(rate=2.0).encode(gaussian(48, 48)).tensors["stream"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        broken = stream.clone()
        broken[int(torch.randint(len(stream), (1,), generator=generator))] ^= 0x55
        try:
            decoded = decode(Encoded("ecq", (48, 48), "float32", {"stream": broken}))
        except ValueError:
            continue
        assert decoded.shape == (
            48,
            48,
        )  # a flipped magnitude is no error that a codec can see: checksums are


def test_blocks_cover_every_entry_once_with_its_class() -> None:
    generator = np.random.default_rng(0)
    rows, columns = generator.integers(15, 22, 30), generator.integers(-3, 4, 20)
    blocks = Blocks.of(rows, columns)
    natural = np.arange(600, dtype=np.int32).reshape(20, 30)
    ordered = blocks.sort(natural)
    np.testing.assert_array_equal(blocks.unsort(ordered), natural)
    kinds = entry_classes(rows, columns).reshape(-1)
    seen = []
    for kind, slices in blocks.slices.items():
        for some in slices:
            places = ordered[some].reshape(-1)
            assert (kinds[places] == kind).all()
            seen += places.tolist()
    assert sorted(seen) == list(range(600))


def test_trained_gains_are_stored_to_a_few_per_cent() -> None:
    encoded = EcqCodec(rate=3.0).encode(gaussian(64, 64))
    expanded = EcqCodec.expanded(encoded)
    gains = {"row_gain": torch.linspace(0.8, 1.25, 64), "column_gain": torch.linspace(1.2, 0.85, 64)}
    compact = EcqCodec.compacted(encoded, gains)
    expected = decode(expanded.with_tensors(**gains))
    # a 16th of an octave is 4.4 %, so each of the two gains is off by at most 2.2 %
    torch.testing.assert_close(decode(compact), expected, rtol=0.046, atol=1e-6)


def test_new_codes_follow_their_target_in_the_same_bits() -> None:
    weight = gaussian(128, 96)
    encoded = EcqCodec(rate=2.0, states=8).encode(weight)
    values = EcqCodec.expanded(encoded).tensors["values"]
    assigner = EcqCodec.assigner(encoded)
    torch.testing.assert_close(assigner.assign(values), values)  # what it holds is nearest to itself
    other = values + 0.3 * gaussian(128, 96, seed=5)
    assert (assigner.assign(other) - other).norm() < (values - other).norm()
    finished = assigner.finish(other)
    assert finished.num_bytes <= 1.01 * encoded.num_bytes
    assert nmse(other, decode(finished)) < nmse(other, decode(encoded))


def test_more_bits_are_a_relaxed_setting_up_to_eight() -> None:
    assert EcqCodec(rate=2.0).relaxed(severe=False) == EcqCodec(rate=2.2)
    assert EcqCodec(rate=2.0).relaxed(severe=True) == EcqCodec(rate=2.5)
    assert EcqCodec(rate=7.9).relaxed(severe=True) == EcqCodec(rate=8.0)
    assert EcqCodec(rate=8.0).relaxed(severe=True) is None
    assert EcqCodec(rate=2.0).at_rate(99.0) == replace(EcqCodec(), rate=8.0)


def test_counting_is_by_class() -> None:
    magnitudes, kinds = np.array([[0, 2], [2, 1]], np.int32), np.array([[3, 3], [4, 4]], np.uint8)
    counts = count_magnitudes(magnitudes, kinds)
    assert counts[3].tolist() == [1, 0, 1]
    assert counts[4].tolist() == [0, 1, 1]


def test_two_rows_lose_nothing_by_a_hessian() -> None:
    """As a network's token types have it: side information takes more bits than codes, and one row matters."""
    weight = gaussian(2, 32, seed=5)
    for seed in range(4):
        inputs = gaussian(40, 32, seed=seed) * torch.logspace(0, -2, 32)
        hessian, rows = inputs.T @ inputs / 40, torch.tensor([2.0, 6e-4])
        codec = EcqCodec(rate=3.0, states=4)

        def cost(encoded: Encoded, hessian: torch.Tensor = hessian, rows: torch.Tensor = rows) -> float:
            return weighted_error((decode(encoded) - weight) * rows[:, None].sqrt(), hessian)

        fitted, plain = codec.encode(weight, hessian, rows), codec.encode(weight)
        # no worse a trade of bits for error, 6.02 dB each, than without the hessian
        gained = math.log2(cost(plain) / cost(fitted)) / 2
        assert fitted.bits_per_weight - plain.bits_per_weight <= gained + 1e-9


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_rows_that_count_for_nothing_do_not_come_back_as_noise(rate: float) -> None:
    """Values that nobody reads meet columns that nobody writes to: both are free, and their product is not."""
    weight, rows = gaussian(64, 64), torch.ones(64)
    weight[40:], rows[40:] = 0, 0
    decoded = decode(EcqCodec(rate=rate, states=8).encode(weight, torch.eye(64), rows))
    assert float(decoded[40:].square().mean()) < 1e-3  # of rows that have a mean square of 1
    if rate >= 1:  # below it steps of rows that do count are wider than their entries, too
        weight[40:] = gaussian(24, 64, seed=1)
        decoded = decode(EcqCodec(rate=rate, states=8).encode(weight, torch.eye(64), rows))
        assert float(decoded[40:].square().mean()) < 16  # half a step of three octaves
