"""Refinement of pruned weights: what is left trains, zeros stay zeros, bytes stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.codecs import SparseCodec, decode
from lightning_modules.refinement import Refinement


class SquaredOutputs:
    """Outputs are to be near each other in squares."""

    def as_batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {"input": rows}

    def divergence(
        self, outputs: Any, reference: Any, batch: Mapping[str, Tensor], temperature: float = 1.0
    ) -> Tensor:
        return (outputs - reference).square().mean()


@pytest.mark.parametrize(
    "codec",
    [
        SparseCodec(0.6),
        SparseCodec(pattern="2:4", bits=4),
        SparseCodec(0.6, "4x4", bits=3),
        SparseCodec(0.6, score="wanda", bits=2),
    ],
    ids=["16 bits", "2:4", "blocks", "2 bits"],
)
def test_survivors_train_and_zeros_stay(codec: SparseCodec) -> None:
    chance = torch.Generator().manual_seed(0)
    network = nn.Linear(32, 16, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.randn(16, 32, generator=chance))
    # inputs have 6 common factors: what is left can make up for what is gone
    inputs = torch.randn(64, 6, generator=chance) @ torch.randn(6, 32, generator=chance)
    encoded = {"weight": codec.encode(network.weight.detach(), inputs.T @ inputs / 64)}
    objective: Any = SquaredOutputs()
    module = Refinement(network, objective, encoded, learning_rate=0.02, steps=60)
    batch = objective.as_batch(inputs)
    first = float(module.divergence(batch).detach())
    settings = module.configure_optimizers()
    for _ in range(60):
        settings["optimizer"].zero_grad()
        module.divergence(batch).backward()
        settings["optimizer"].step()
        settings["lr_scheduler"]["scheduler"].step()
    refined = module.result()["weight"]
    before, after = decode(encoded["weight"]), decode(refined)
    assert torch.equal(before == 0, after == 0)
    assert not torch.equal(before, after)
    assert refined.num_bytes == encoded["weight"].num_bytes
    assert refined.tensors["mask"].equal(encoded["weight"].tensors["mask"])
    last = float((inputs @ (after - network.weight.detach()).T).square().mean())
    assert last < 0.95 * first  # of few bits only 16 scales train
