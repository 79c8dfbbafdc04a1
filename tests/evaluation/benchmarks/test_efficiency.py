"""Costs against counts by hand; times are only looked at for their order."""

import pytest
import torch
from torch import Tensor, nn

from fulgurite.evaluation.benchmarks import measure_efficiency
from fulgurite.evaluation.benchmarks.efficiency import count_flops

BATCH, TOKENS, WIDTH, HEADS = 3, 5, 32, 2


class Attention(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_is_counted_on_its_fast_path_too(need_weights: bool) -> None:
    network = Attention(need_weights).eval()
    x = torch.randn(BATCH, TOKENS, WIDTH)
    projections = 2 * BATCH * TOKENS * WIDTH * 4 * WIDTH  # query, key, value and what follows
    scores = 2 * 2 * BATCH * HEADS * TOKENS**2 * (WIDTH // HEADS)  # times keys, times values
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():  # where the fast path is taken
        assert count_flops(lambda: network(x)) == projections + scores
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_clip_costs_what_its_layers_cost(clip, adapter) -> None:
    tokens = adapter.tokenize(["a cat", "a dog"])
    pixels = torch.randn(2, 3, 32, 32)

    def layers(count: int, width: int, heads: int) -> int:
        products = (
            2 * count * width * (4 * width + 2 * 4 * width)
        )  # attention's four, and fourfold there and back
        return products + 2 * 2 * heads * count**2 * (width // heads)

    patches = 2 * 16 * (3 * 8 * 8) * 32
    image = patches + layers(17, 32, 2) + 2 * 32 * 32  # of the class token, into the common space
    text = layers(12, 32, 2) + 2 * 32 * 32
    found = measure_efficiency(clip, {"image": pixels, "text": tokens}, num_bytes=1, repeats=1, warmup=0)
    assert found.flops == image + text


def test_sizes_times_and_memory(capfd) -> None:
    network = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 8)).train()
    found = measure_efficiency(network, {"input": torch.randn(16, 64)}, num_bytes=1234, repeats=5, warmup=1)
    assert network.training
    assert found.parameters == 64 * 1024 + 1024 + 1024 * 8 + 8
    assert found.flops == 2 * (64 * 1024 + 1024 * 8)
    assert (found.num_bytes, found.batch_size, found.device) == (1234, 16, "cpu")
    assert 0 < found.latency_p50_ms <= found.latency_p90_ms <= found.latency_p99_ms
    # mean and median time differ, but the mean lies under the sum of five
    assert 16 / found.items_per_second < 5 * found.latency_p99_ms / 1000
    # both hidden layers, before and after the ReLU, are there at a time: 4 bytes each
    assert found.peak_memory_bytes == 4 * (found.parameters + 16 * 64 + 2 * 16 * 1024)
    assert all(isinstance(value, float) for value in found.facts.values())
    assert capfd.readouterr().out == ""


def test_shared_weights_count_once() -> None:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    network = nn.Sequential(first, second)
    found = measure_efficiency(network, {"input": torch.randn(1, 8)}, num_bytes=1, repeats=1, warmup=0)
    assert found.parameters == 64
    assert found.flops == 2 * 2 * 64  # though they are multiplied with twice
    assert found.peak_memory_bytes == 4 * (64 + 8 + 2 * 8)


def test_uneven_batches_and_bad_numbers_are_refused() -> None:
    network = nn.Linear(2, 2)
    for batch in ({}, {"input": torch.zeros(0, 2)}, {"input": torch.zeros(2, 2), "text": torch.zeros(3)}):
        with pytest.raises(ValueError, match="batch must have tensors of as many items, at least one, got {"):
            measure_efficiency(network, batch, num_bytes=1)
    with pytest.raises(ValueError, match="got repeats=0 and warmup=3"):
        measure_efficiency(network, {"input": torch.zeros(1, 2)}, num_bytes=1, repeats=0)
