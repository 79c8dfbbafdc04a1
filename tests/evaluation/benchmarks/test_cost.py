"""What a network costs is told beside its scores, and decides nothing."""

from __future__ import annotations

import pytest

from datamodules import ShapesDataModule
from fulgurite.evaluation.benchmarks import Cost, Retrieval, View, run_benchmarks
from fulgurite.testing import small_image_text

pytest.importorskip("open_clip")


def view() -> View:
    network, adapter = small_image_text("open_clip")
    shapes = ShapesDataModule(train=8, validation=6, test=6, side=32)
    shapes.use_adapter(adapter)
    return View(network, adapter, shapes.split("test"))


def test_costs_are_facts_of_one_picture_with_its_text() -> None:
    one, whole = (
        run_benchmarks([Cost(batch_size=size, repeats=2, warmup=0)], view()).facts for size in (1, 4)
    )
    network = view().network
    assert one["parameters"] == sum(weight.numel() for weight in network.parameters())
    assert one["flops"] is not None
    assert whole["flops"] == pytest.approx(one["flops"])  # per item, whatever the batch
    assert one["flops"] > 2 * network.visual.conv1.weight.numel()  # the first layer alone, once
    assert all(value is not None and value > 0 for value in one.values())


def test_no_measure_comes_of_it() -> None:
    scored = run_benchmarks([Retrieval(ks=(1,)), Cost(repeats=1, warmup=0)], view())
    assert {measure.name for measure in scored.measures} == {"image_to_text_r1", "text_to_image_r1"}
    assert "latency_p99_ms" in scored.facts


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"repeats": 0}, {"warmup": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        Cost(**settings)
