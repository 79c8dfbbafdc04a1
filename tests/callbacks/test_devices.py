"""Where networks of a run compute: what cannot be done with one in parts is refused before any work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.all_devices import rows_of
from callbacks.devices import OneDevice, devices_of
from callbacks.stages.repair import RepairStage
from callbacks.stages.stage import Refine, Stage
from lightning_modules import LanguageModel, TextEncoder
from lightning_modules.trainer import Trainer

SIZES = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
MODEL: dict[str, Any] = {"config": {"model_type": "llama", "num_attention_heads": 2, **SIZES}}


@pytest.fixture
def sharded() -> Trainer:
    return Trainer(strategy="sharded", accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)


@pytest.mark.parametrize(
    ("stages", "based", "said"),
    [
        ({"mend": RepairStage()}, False, r"cascade\.stages\.mend is a RepairStage"),
        ({"four": Stage()}, True, r"expected no cascade\.base"),
    ],
)
def test_what_has_no_way_in_parts_is_refused(
    sharded: Trainer, stages: dict[str, Stage], based: bool, said: str
) -> None:
    module = LanguageModel(**MODEL)
    module.configure_model()
    with pytest.raises(ValueError, match=f"trainer.strategy: sharded .*{said}"):
        devices_of(sharded, module, stages, nn.Module, based=based)


def test_other_networks_than_language_models_are_refused(sharded: Trainer) -> None:
    with pytest.raises(ValueError, match="takes a LanguageModel, got a TextEncoder; expected auto or ddp"):
        devices_of(sharded, TextEncoder(source="nowhere"), {}, nn.Module)


def test_a_network_that_a_fit_has_shared_out_is_refused(sharded: Trainer) -> None:
    module: Any = LanguageModel(**MODEL)
    module.network = SimpleNamespace(parameters=lambda: [SimpleNamespace(to_local=None)])
    with pytest.raises(ValueError, match="the network is in parts of a fit"):
        devices_of(sharded, module, {}, nn.Module)


def test_inputs_of_a_network_in_parts_have_as_many_rows_each() -> None:
    assert (
        rows_of({"input_ids": torch.ones(3, 4), "attention_mask": torch.ones(3, 4), "logits_to_keep": 1}) == 3
    )
    for inputs in ({"input_ids": torch.ones(3, 4), "cache_position": torch.ones(4)}, {"logits_to_keep": 1}):
        with pytest.raises(ValueError, match="as many rows each, got"):
            rows_of(inputs)


def test_one_device_takes_everything() -> None:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    stages = {"mend": RepairStage(), "four": Stage(refine=Refine(steps=10))}
    devices = devices_of(trainer, LanguageModel(**MODEL), stages, nn.Module, based=True)
    assert isinstance(devices, OneDevice)
    assert devices.home == torch.device("cpu")
    network, done = nn.Linear(1, 1), []
    assert devices.network(network) is network
    devices.lead(lambda: done.append("work"))
    assert done == ["work"]
    OneDevice(devices.home, rank=1).lead(lambda: done.append("another's work"))
    assert done == ["work"]
