"""Curves of a stage's weights: files that ranks share and a restarted run goes on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks.stages.allocating import Allocate
from callbacks.stages.curves import curve_path, measure_curves, read_curves
from callbacks.stages.metric_file import Metrics, write_metrics
from fulgurite.allocation import Probe
from fulgurite.calibration import Metric
from fulgurite.codecs import EcqCodec, Float16Codec, UniformCodec

LADDER = (UniformCodec(bits=2, group_size=32), UniformCodec(bits=4, group_size=32), Float16Codec())
SETTINGS = Allocate(bits_per_weight=3.0)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(32, 64, bias=False), nn.Linear(64, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())  # type: ignore[no-any-return]


def squared(outputs: Tensor, reference: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return (outputs - reference).square().mean()


@pytest.fixture
def network() -> Pair:
    return Pair().eval()


def run(network: nn.Module, folder: Path, settings: Allocate = SETTINGS, **more: Any) -> list[str]:
    """Measure; gives the weights that the network was probed with."""
    probed = []

    class Counting(Probe):
        def losses(self, name: str, replacement: Tensor) -> list[float]:
            probed.append(name)
            return super().losses(name, replacement)

    batches = [{"x": torch.randn(64, 32, generator=torch.manual_seed(seed))} for seed in range(4)]
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    more = {"metrics": Metrics(None), **more}
    measure_curves(
        dict.fromkeys(weights, LADDER),
        weights,
        allocate=settings,
        folder=folder,
        probe=lambda: Counting(network, batches, squared),
        **more,
    )
    return probed


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_ranks_measure_what_one_does(network: Pair, tmp_path: Path) -> None:
    run(network, tmp_path / "one")
    shares = [run(network, tmp_path / "two", rank=rank, world_size=2) for rank in range(2)]
    assert sorted(map(len, map(set, shares))) == [1, 1]  # type: ignore[arg-type]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_is_there_is_kept(network: Pair, tmp_path: Path) -> None:
    run(network, tmp_path)
    before = contents(tmp_path)
    assert run(network, tmp_path) == []
    curve_path(tmp_path, "up.weight").unlink()
    curve_path(tmp_path, "down.weight").write_text('{"key": ')  # cut short
    assert set(run(network, tmp_path)) == {"up.weight", "down.weight"}
    assert contents(tmp_path) == before


def test_curves_of_other_settings_are_not_taken(network: Pair, tmp_path: Path) -> None:
    run(network, tmp_path)
    other = Allocate(bits_per_weight=3.0, probe_windows=2)
    assert set(run(network, tmp_path, other)) == {"up.weight", "down.weight"}
    # another limit needs no new curves: a retry only changes that
    assert run(network, tmp_path, Allocate(budget=9_000, probe_windows=2)) == []


def test_what_is_read_is_what_was_measured(network: Pair, tmp_path: Path) -> None:
    run(network, tmp_path)
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    found = read_curves(dict.fromkeys(weights, LADDER), weights, SETTINGS, tmp_path)
    for curve in found.curves:
        assert [one.codec for one in curve.candidates] == list(LADDER)
        assert [one.num_bytes for one in curve.candidates] == [
            codec.encode(weights[curve.name]).num_bytes for codec in LADDER
        ]
        assert found.effects[curve.name][0].seen
    assert found.statistics == {}


def test_strategies_by_statistics_run_no_network(network: Pair, tmp_path: Path) -> None:
    settings = Allocate(bits_per_weight=3.0, strategy="balanced")
    assert run(network, tmp_path, settings) == []
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    found = read_curves(dict.fromkeys(weights, LADDER), weights, settings, tmp_path)
    assert found.statistics["up.weight"].variance == pytest.approx(
        float(weights["up.weight"].square().mean())
    )


def test_the_metric_is_what_errors_are_measured_in(network: Pair, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    write_metrics(path, {"up.weight": Metric(4 * torch.eye(32), None, "input")})
    run(network, tmp_path / "plain")
    run(network, tmp_path / "metric", metrics=Metrics(path))
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    plain, weighted = (
        {
            curve.name: curve.candidates[0].distortion
            for curve in read_curves(
                dict.fromkeys(weights, LADDER), weights, SETTINGS, tmp_path / name
            ).curves
        }
        for name in ("plain", "metric")
    )
    assert weighted["up.weight"] == pytest.approx(4 * plain["up.weight"], rel=1e-4)
    assert weighted["down.weight"] == plain["down.weight"]


def test_a_sampled_codec_of_any_rate_stands_for_the_rate_of_the_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(640, 64) * torch.randn(64).exp()  # columns that differ have scales to be stored
    settings = Allocate(bits_per_weight=2.0, strategy="uniform", sample=192 * 64)  # 192 of 640 rows
    ladders = {"w": (EcqCodec(rate=2.0, states=1), Float16Codec())}
    measure_curves(
        ladders, {"w": weight}, Metrics(None), settings, tmp_path, probe=lambda: pytest.fail("no need")
    )
    (curve,) = read_curves(ladders, {"w": weight}, settings, tmp_path).curves
    found = curve.candidates[0]
    assert isinstance(found.codec, EcqCodec)
    assert found.codec.rate == 8 * found.num_bytes / weight.numel()
    assert found.codec.rate == pytest.approx(2.0, rel=0.02)  # of 2 bits, few go to the scales of 64 columns
    encoded = found.codec.encode(weight)
    assert found.num_bytes == pytest.approx(encoded.num_bytes, rel=0.02)
    error = float((weight - EcqCodec.decode(encoded)).square().sum())
    assert found.distortion == pytest.approx(error, rel=0.15)  # fewer rows to adapt to


def test_a_weight_that_cannot_be_coded_is_named(tmp_path: Path) -> None:
    weights = {"bad.weight": torch.full((4, 4), float("nan"))}
    with pytest.raises(ValueError, match=r"bad\.weight: .*finite"):
        measure_curves(
            {"bad.weight": LADDER},
            weights,
            Metrics(None),
            Allocate(bits_per_weight=3.0, strategy="uniform"),
            tmp_path,
            probe=lambda: pytest.fail("no need"),
        )
