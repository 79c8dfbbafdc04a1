"""The adaptive coder loses nothing, comes close to the entropy, and refuses what it has not written."""

import numpy as np
import pytest
import torch

from fulgurite.coding.adaptive import AdaptiveDecoder, AdaptiveEncoder


def geometric(count: int, mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).geometric(1 / (1 + mean), count) - 1


@pytest.mark.parametrize("low_bits", [0, 3])
@pytest.mark.parametrize("escape", [1, 15, 63])
@pytest.mark.parametrize("count", [1, 31, 33, 5000])  # around the first chunk of 32, and many chunks
def test_get_inverts_put(count: int, escape: int, low_bits: int) -> None:
    first, second = geometric(count, 4.0), geometric(7, 300.0)  # the second needs escapes
    encoder = AdaptiveEncoder()
    encoder.put(first, low_bits, escape)
    encoder.put(second, low_bits, escape, follows=True)
    decoder = AdaptiveDecoder(encoder.finish())
    np.testing.assert_array_equal(decoder.get(count, low_bits, escape), first)
    np.testing.assert_array_equal(decoder.get(7, low_bits, escape, follows=True), second)
    decoder.finish()


def test_the_largest_symbol_passes_and_larger_ones_do_not() -> None:
    encoder = AdaptiveEncoder()
    encoder.put(np.array([2**31 - 1, 0]))
    assert AdaptiveDecoder(encoder.finish()).get(2).tolist() == [2**31 - 1, 0]
    for wrong in (2**31, -1):
        with pytest.raises(ValueError, match=r"must be in \[0, 2\*\*31\)"):
            AdaptiveEncoder().put(np.array([wrong]))


@pytest.mark.parametrize("mean", [0.05, 1.0, 5.0])
def test_the_size_is_within_half_a_percent_of_the_models_entropy(mean: float) -> None:
    symbols = geometric(200_000, mean)
    encoder = AdaptiveEncoder()
    encoder.put(symbols)
    size = 8 * encoder.finish().numel()
    assert size <= 1.005 * encoder.nats / np.log(2)
    # and the adaptive model is within a percent of the best fixed one: 0.7 % where nearly all are zeros
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    entropy = float(counts @ np.log2(counts.sum() / counts))
    assert encoder.nats / np.log(2) <= 1.01 * entropy


def test_a_group_that_follows_starts_from_the_last() -> None:
    sizes = []
    for follows in (False, True):
        encoder = AdaptiveEncoder()
        encoder.put(geometric(2000, 6.0))
        encoder.put(geometric(50, 6.0, seed=1), follows=follows)
        sizes.append(encoder.finish().numel())
    assert sizes[1] < sizes[0]


def test_nothing_is_a_stream_too() -> None:
    decoder = AdaptiveDecoder(AdaptiveEncoder().finish())
    assert decoder.get(0).size == 0
    decoder.finish()


def test_what_was_not_written_is_refused() -> None:
    encoder = AdaptiveEncoder()
    encoder.put(geometric(500, 2.0), low_bits=1)
    stream = encoder.finish()
    with pytest.raises(ValueError, match="cannot have"):
        AdaptiveDecoder(stream[:3])
    with pytest.raises(ValueError, match="cannot have"):
        AdaptiveDecoder(stream[:-1])
    with pytest.raises(ValueError, match="packed bits end"):
        AdaptiveDecoder(stream).get(1000, low_bits=1)
    with pytest.raises(ValueError, match="more words"):
        AdaptiveDecoder(stream).finish()
    longer = torch.cat([stream, torch.zeros(4, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="last word"):
        AdaptiveDecoder(longer)
