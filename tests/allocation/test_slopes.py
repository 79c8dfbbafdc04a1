"""Slopes: the effect of one weight's error on a network, measured, and what becomes of noise."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.allocation import Effect, Probe, measure, settle
from fulgurite.codecs import Float16Codec, UniformCodec

CODECS = (UniformCodec(bits=2, group_size=32), UniformCodec(bits=4, group_size=32), Float16Codec())


class Sum(nn.Module):
    """Two weights whose squared errors count 1 and 25 times in the squared output."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(32, 64, bias=False)
        self.five = nn.Linear(32, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), 5 * self.five(x)], -1)


def squared(outputs: Tensor, reference: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return (outputs - reference).square().sum(-1).mean()


@pytest.fixture
def network() -> Sum:
    torch.manual_seed(0)
    return Sum().eval()


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(256, 32)} for _ in range(4)]


def test_slopes_are_the_loss_per_distortion(network: Sum, batches: list[dict[str, Tensor]]) -> None:
    probe = Probe(network, batches, squared)
    effects = {}
    for name in ("one.weight", "five.weight"):
        weight = network.get_parameter(name)
        found = measure(weight, CODECS, losses=lambda new, name=name: probe.losses(name, new))  # type: ignore[misc]
        effects[name] = found.effects
    slopes = settle(effects)
    assert slopes.measured
    assert slopes.unseen == ()
    # inputs of unit variance: the output's error is the weight's; 1024 samples of 32 inputs tell it to a few %
    assert slopes.values["one.weight"] == pytest.approx(1.0, rel=0.1)
    assert slopes.values["five.weight"] == pytest.approx(25.0, rel=0.1)


def test_probing_leaves_the_network_as_it_was(network: Sum, batches: list[dict[str, Tensor]]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calls = [0]

    def fail(outputs: Tensor, reference: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("in the middle")
        return squared(outputs, reference, batch)

    with pytest.raises(RuntimeError, match="in the middle"):
        Probe(network, batches, fail).losses("one.weight", torch.zeros(64, 32))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_losses_do_not_depend_on_what_is_kept(network: Sum, batches: list[dict[str, Tensor]]) -> None:
    some = torch.zeros(64, 32)
    kept, none = (Probe(network, batches, squared, kept_bytes=size) for size in (1 << 20, 0))
    assert [kept.losses("one.weight", some) for _ in range(2)] == [none.losses("one.weight", some)] * 2


def test_tied_weights_are_replaced_in_both_uses() -> None:
    network = Sum().eval()
    network.five.weight = network.one.weight
    batches = [{"x": torch.randn(64, 32)}]
    zeros = Probe(network, batches, squared).losses("five.weight", torch.zeros(64, 32))
    # without any weight the output is zero, so the loss is the squared output itself
    assert zeros[0] == pytest.approx(
        float(network(batches[0]["x"]).detach().square().sum(-1).mean()), rel=1e-5
    )


def test_a_sample_of_rows_has_the_slope_of_all(network: Sum, batches: list[dict[str, Tensor]]) -> None:
    probe = Probe(network, batches, squared)
    weight = network.five.weight
    losses = lambda new: probe.losses("five.weight", new)  # noqa: E731
    some = measure(weight, CODECS, most=16 * 32, losses=losses)  # 16 of 64 rows
    every = measure(weight, CODECS, losses=losses)
    assert some.effects[0].distortion < 0.5 * every.effects[0].distortion
    assert some.effects[0].slope == pytest.approx(every.effects[0].slope, rel=0.1)


def test_a_weight_without_effect_gets_what_noise_could_hide() -> None:
    effects = {
        "seen": [Effect(100, 2.0, 0.5, 0.01)],
        "hidden": [Effect(100, 2.0, 0.001, 0.004), Effect(50, 8.0, 0.002, 0.004)],
    }
    slopes = settle(effects)
    assert slopes.unseen == ("hidden",)
    assert slopes.values == {
        "seen": 0.25,
        "hidden": 2 * 0.004 / 8.0,
    }  # two standard errors, the coarser probe


def test_an_effect_far_from_the_reference_counts_less_than_a_near_one() -> None:
    far, near = Effect(50, 10.0, 4.0, 0.1), Effect(100, 1.0, 0.9, 0.01)
    assert settle({"w": [far, near]}).values["w"] == settle({"w": [near, far]}).values["w"] == 0.9


def test_where_all_is_noise_the_metric_s_units_count() -> None:
    slopes = settle(
        {"a": [Effect(100, 2.0, 1e-9, 0.0)], "b": [Effect(100, 7.0, 0.1, 0.2)], "zeros": []}, unit=0.5
    )
    assert not slopes.measured
    assert slopes.unseen == ("a", "b")
    assert slopes.values == {"a": 0.5, "b": 0.5, "zeros": 0.5}


def test_a_second_rate_is_probed_where_the_first_tells_nothing() -> None:
    weight = torch.randn(16, 32, generator=torch.manual_seed(0))
    ladder = [UniformCodec(bits=bits, group_size=32) for bits in (1, 2, 4)]

    def probed(*answers: list[float]) -> list[int]:
        given = iter(answers)
        found = measure(weight, ladder, losses=lambda new: next(given), probe_bits=3.0)
        return [effect.num_bytes for effect in found.effects]

    # group of 32: one bit more than the codes, for fp16 zero and step; 512 weights are 64 bytes a bit
    assert probed([0.1, 0.11]) == [192]
    assert probed([0.0, 0.0], [0.2, 0.2]) == [192, 128]  # nothing seen: the coarsest
    assert probed([3.0, 3.0], [0.2, 0.2]) == [192, 320]  # far from the reference: two bits more
    assert probed([float("nan")] * 2, [0.2, 0.2]) == [320]
    with pytest.raises(ValueError, match="not finite with this weight coded"):
        probed([float("nan")], [float("inf")])


def test_a_probe_needs_a_batch(network: Sum) -> None:
    with pytest.raises(ValueError, match="batches must hold at least one"):
        Probe(network, [], squared)


def test_outputs_that_are_no_data_are_not_kept() -> None:
    class Outputs(dict[str, Any]):
        pass

    class Remembering(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return Outputs(logits=super().forward(x), cache=object())

    network = Remembering(4, 4)
    seen = []

    def compare(outputs: Any, reference: Any, batch: Mapping[str, Tensor]) -> Tensor:
        seen.append(sorted(reference))
        return squared(outputs["logits"], reference["logits"], batch)

    Probe(network, [{"x": torch.ones(2, 4)}], compare).losses("weight", torch.zeros(4, 4))
    assert seen == [["logits"]]
