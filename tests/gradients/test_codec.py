"""Gradients to bytes: what is sent is what is read, prediction pays, and what is out of range is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fulgurite.gradients import GradientCodec, Payload, measured_bits
from fulgurite.gradients.entropy import Gaussian
from fulgurite.gradients.statistics import channel_statistics


def uneven(rows: int = 96, columns: int = 128) -> Tensor:
    """Channels that differ by a factor of 100, with heavier tails than a Gaussian, as gradients have."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, columns, generator=generator)
    return 1e-4 * values * values.abs() * torch.logspace(-1.5, 0.5, rows)[:, None]


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        uneven(),
        torch.randn(64, 3, 3, 3, generator=generator),
        torch.randn(7, generator=generator).half(),
    ]


CODECS = {
    "adaptive": GradientCodec(),
    "threshold": GradientCodec(threshold=0.9),
    "balanced": GradientCodec(balance=0.5),
    "relative": GradientCodec(balance=1.0),
    "fixed2": GradientCodec(fixed_bits=2),
    "fixed5": GradientCodec(fixed_bits=5),
}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("step", [0.01, 0.7, 5.0, 1000.0])
def test_what_is_sent_is_what_is_read(name: str, step: float) -> None:
    given = tensors()
    payload = CODECS[name].encode(given, step)
    for sent, read, original in zip(
        payload.decoded, GradientCodec.decode(payload.data, given), given, strict=True
    ):
        assert torch.equal(sent, read)
        assert (sent.shape, sent.dtype) == (original.shape, original.dtype)


def test_the_error_is_the_share_of_the_energy() -> None:
    given = [uneven()]
    payload = GradientCodec().encode(given, 1.0)
    lost = (given[0] - payload.decoded[0]).square().sum() / given[0].square().sum()
    assert payload.error == pytest.approx(float(lost), rel=1e-4)


@pytest.mark.parametrize("step", [0.05, 0.5, 2.0, 8.0])
def test_the_code_leaves_out_less_than_there_is(step: float) -> None:
    """Error feedback converges for contractive codes alone."""
    assert GradientCodec().encode([uneven()], step).error < 1


def test_a_coarser_step_takes_fewer_bytes_and_loses_more() -> None:
    found = [GradientCodec().encode([uneven()], step) for step in (0.1, 0.3, 1.0, 3.0, 9.0)]
    sizes = [payload.num_bytes for payload in found]
    errors = [payload.error for payload in found]
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)


def at_error(error: float) -> Payload:
    """The adaptive payload with this error, by bisection."""
    low, high = 1e-3, 10.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (
            (middle, high) if GradientCodec().encode([uneven()], middle).error < error else (low, middle)
        )
    return GradientCodec().encode([uneven()], low)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_bits_where_they_are_needed_beat_equal_bits(bits: int) -> None:
    fixed = GradientCodec(fixed_bits=bits).encode([uneven()], 1e-6)
    adaptive = at_error(fixed.error)
    assert adaptive.error <= fixed.error
    assert adaptive.num_bytes < 0.8 * fixed.num_bytes


def test_balance_gives_quiet_channels_their_share() -> None:
    """With one step for all, the quietest channels are dropped; with their own, all keep as much of themselves."""
    given = uneven()
    kept = {}
    for balance in (0.0, 1.0):
        payload = GradientCodec(balance=balance).encode([given], 1.0)
        lost = (given - payload.decoded[0]).square().sum(1) / given.square().sum(1)
        kept[balance] = (1 - lost).min()
    assert kept[0.0] < 0.05
    assert kept[1.0] > 0.7


def test_silent_channels_cost_next_to_nothing() -> None:
    loud = uneven(8)
    with_silence = torch.cat([loud, 1e-12 * uneven(1000)])
    scale = (loud.numel() / with_silence.numel()) ** 0.5  # of the root mean squares: the same step for both
    quiet = GradientCodec().encode([with_silence], 0.5 / scale)
    assert quiet.num_bytes < GradientCodec().encode([loud], 0.5).num_bytes + 60  # 1,000 channels of class 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said_in_few_bytes(bad: float) -> None:
    given = tensors()
    given[1][3, 0, 0, 0] = bad
    payload = GradientCodec().encode(given, 1.0)
    assert payload.num_bytes == 9
    for value in GradientCodec.decode(payload.data, given):
        assert bool(torch.isnan(value).all())


def test_empty_tensors_are_sent_as_nothing() -> None:
    given = [torch.zeros(0, 5), uneven(), torch.zeros(0)]
    payload = GradientCodec().encode(given, 1.0)
    assert payload.num_bytes == GradientCodec().encode([uneven()], 1.0).num_bytes
    for sent, read, original in zip(
        payload.decoded, GradientCodec.decode(payload.data, given), given, strict=True
    ):
        assert torch.equal(sent, read)
        assert sent.shape == original.shape
    assert GradientCodec.decode(GradientCodec().encode([], 1.0).data, []) == []


def test_zeros_stay_zeros() -> None:
    payload = GradientCodec().encode([torch.zeros(16, 16)], 1.0)
    assert payload.error == 0
    assert not GradientCodec.decode(payload.data, [torch.zeros(16, 16)])[0].any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"balance": 1.5}, r"balance must be in \[0, 1\], got 1.5"),
        ({"threshold": 0.4}, r"threshold must be in \[0.5, 1\] steps, got 0.4"),
        ({"fixed_bits": 9}, r"fixed_bits must be in \[2, 8\], got 9"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GradientCodec(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [3, 20, -5])
def test_a_payload_that_was_cut_is_refused(cut: int) -> None:
    given = tensors()
    payload = GradientCodec().encode(given, 0.3)
    with pytest.raises(ValueError, match="."):
        GradientCodec.decode(payload.data[:cut].clone(), given)


def test_statistics_are_their_definitions() -> None:
    from scipy import stats

    channels = uneven(5) * 2e4
    found = channel_statistics(channels)
    for row, channel in zip(found.tolist(), channels.double().numpy(), strict=True):
        expected = [
            channel.mean(),
            channel.var(),
            channel.std(),
            stats.skew(channel),
            stats.kurtosis(channel, fisher=False),
            (abs(channel) < 0.5).mean(),
        ]
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-6)
    with pytest.raises(ValueError, match=r"channels must be \[c, n\]"):
        channel_statistics(torch.zeros(3))


@pytest.mark.parametrize("width", [0.4, 1.0, 5.0, 40.0])
def test_the_formula_and_the_coder_agree_on_gaussians(width: float) -> None:
    channels = width * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(2))
    found = measured_bits(channels)
    expected = Gaussian()(channel_statistics(channels))
    # the coder learns its model from the channel: some hundred bits over 20,000 values
    torch.testing.assert_close(found, expected, atol=0.06, rtol=0.03)
