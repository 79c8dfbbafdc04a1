"""In the forward pass weights are what a codec makes of them; gradients and the network's own weights are exact."""

import pytest
import torch
from torch import nn

from fulgurite.codecs import EcqCodec, UniformCodec, decode
from lightning_modules.quantised import Quantise, Quantised


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3))


INPUTS = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("codec", [UniformCodec(bits=4, group_size=8), EcqCodec(rate=3.0, states=8)])
def test_the_forward_pass_is_that_of_the_decoded_weights(codec: UniformCodec | EcqCodec) -> None:
    original, coded = network(), network()
    with torch.no_grad():
        for layer in (coded[0], coded[2]):
            layer.weight.copy_(decode(codec.encode(layer.weight)))
    quantised = Quantised(original, Quantise(codec))
    assert torch.equal(quantised(INPUTS), original(INPUTS))  # the codec was not asked yet
    quantised.ask(0)
    assert torch.allclose(quantised(INPUTS), coded(INPUTS), atol=1e-6)
    assert torch.equal(original[0].weight, network()[0].weight)


def test_gradients_are_those_at_the_decoded_weights() -> None:
    original, coded, codec = network(), network(), UniformCodec(bits=3, group_size=8)
    with torch.no_grad():
        for layer in (coded[0], coded[2]):
            layer.weight.copy_(decode(codec.encode(layer.weight)))
    quantised = Quantised(original, Quantise(codec))
    quantised.ask(0)
    quantised(INPUTS).square().sum().backward()
    coded(INPUTS).square().sum().backward()
    for name, weight in original.named_parameters():
        assert torch.allclose(weight.grad, coded.get_parameter(name).grad, atol=1e-5), name


def test_the_codec_is_asked_when_it_is_time() -> None:
    original = network()
    quantised = Quantised(original, Quantise(UniformCodec(bits=2), every=3, start=2))
    quantised.ask(1)
    assert torch.equal(quantised(INPUTS), original(INPUTS))
    errors = []
    for step in (2, 3, 4, 5):
        quantised.ask(step)
        errors.append((quantised(INPUTS) - original(INPUTS)).detach().clone())
        with torch.no_grad():
            original[0].weight.mul_(1.0 + 0.3 * step)
    held = [quantised.errors["0.weight"]]
    quantised.ask(6)
    assert quantised.errors["0.weight"] is held[0]  # asked at 2 and 5, not at 6
    assert errors[0].abs().max() > 0


def test_the_rate_falls_with_the_weights() -> None:
    original = network()
    quantised = Quantised(original, Quantise(UniformCodec(bits=4), rate_weight=0.1))
    quantised.ask(0)
    rate = quantised.rate()
    rate.backward()
    weight = original[0].weight
    assert (weight.grad * weight).sum() > 0  # down the gradient weights shrink
    with torch.no_grad():
        weight.mul_(0.5)
    assert quantised.rate() < rate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"rate_weight": -1}, "rate_weight must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantise(UniformCodec(), **settings)


def test_a_pattern_without_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quantise.select 'decoder\*' matches no matrix of Sequential"):
        Quantised(network(), Quantise(UniformCodec(), select="decoder*"))
