"""Attention that multiplies in one function: its output stays, and its weights get their metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.calibration import gather_metrics
from fulgurite.calibration.attention import fused_layers, opened


class Block(nn.Module):
    """Attention as open_clip's towers have it, with or without a causal mask."""

    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)
        self.mask = mask

    def forward(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.attention(hidden, hidden, hidden, need_weights=False, attn_mask=self.mask)[0]
        return found


def inputs() -> Tensor:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))  # 3 samples of 5 places


def open_all(network: nn.Module) -> Any:
    layers = [*fused_layers(network), *(each for each in network.modules() if isinstance(each, nn.Linear))]
    return opened({layer.weight: layer for layer in layers})


CAUSAL = torch.full((5, 5), float("-inf")).triu(1)


@pytest.mark.parametrize("mask", [None, CAUSAL, CAUSAL < 0], ids=["no mask", "added", "boolean"])
def test_opened_attention_gives_what_the_closed_one_gives(mask: Tensor | None) -> None:
    block = Block(mask)
    closed = block(inputs())
    seen: list[Tensor] = []
    (fused,) = fused_layers(block)
    fused.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    with opened({fused.weight: fused}):
        torch.testing.assert_close(block(inputs()), closed, rtol=1e-5, atol=1e-6)
    assert torch.equal(seen[0], inputs())  # samples first, whatever order the function takes


def test_attention_pooling_of_open_clip_opens_with_its_three_biases() -> None:
    pooling = pytest.importorskip("open_clip.modified_resnet").AttentionPool2d(2, 8, 2, 6)
    for part in (pooling.q_proj, pooling.k_proj, pooling.v_proj, pooling.c_proj):
        nn.init.normal_(part.bias)
    pictures = torch.randn(3, 8, 2, 2)
    closed = pooling(pictures)
    with open_all(pooling):
        torch.testing.assert_close(pooling(pictures), closed, rtol=1e-5, atol=1e-6)
    names = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "c_proj.weight"]
    found = gather_metrics(pooling, [{"x": pictures}], names, "input")
    assert all(metric.kind == "input" for metric in found.values())


def test_the_fused_projection_has_the_hessian_of_what_it_reads() -> None:
    block = Block()
    names = ["attention.in_proj_weight", "attention.out_proj.weight"]
    found = gather_metrics(block, [{"hidden": inputs()}], names, "input")
    rows = inputs().reshape(-1, 8)
    hessian = found["attention.in_proj_weight"].hessian
    assert hessian is not None
    torch.testing.assert_close(hessian, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)
    assert found["attention.out_proj.weight"].kind == "input"  # its layer is never called either


def test_kl_of_the_fused_projection_tells_rows_that_nothing_depends_on() -> None:
    """Without queries' and keys' influence (all places alike) only values, the last third of the rows, count."""
    block = Block()
    same = inputs()[:, :1].expand(-1, 5, -1)

    def loss(network: nn.Module, batch: Any, generator: torch.Generator) -> Tensor:
        output = network(**batch)
        signs = torch.randint(2, output.shape, generator=generator) * 2 - 1
        return (output * signs).sum()

    found = gather_metrics(
        block, [{"hidden": same}], ["attention.in_proj_weight"], "kl", sampled_loss=loss, count_places=len
    )
    rows = found["attention.in_proj_weight"].row_weight
    assert rows is not None
    assert rows[:16].max() < 1e-6 * rows[16:].min()


def test_a_caller_who_wants_the_maps_gets_them() -> None:
    block = Block()
    with open_all(block):
        _, maps = block.attention(inputs(), inputs(), inputs(), need_weights=True)
    assert maps.shape == (3, 5, 5)
