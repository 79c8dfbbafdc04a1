"""The metric ``input``: equal to moments computed by hand, for each kind of layer, and without traces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.calibration import gather_metrics


def gram(inputs: Tensor) -> Tensor:
    rows = inputs.double().reshape(-1, inputs.shape[-1])
    return (rows.T @ rows / len(rows)).float()


class Toy(nn.Module):
    """One layer of each kind that may or may not have a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.linear = nn.Linear(6, 4)
        self.unused = nn.Linear(6, 4)
        self.table = nn.Parameter(torch.ones(3, 3))  # a matrix that no layer owns
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.LayerNorm(4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.norm(self.linear(input=self.dropout(self.embedding(input_ids))))
        return hidden


def llama(tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    return LlamaForCausalLM(LlamaConfig(**settings, **heads, tie_word_embeddings=tied)).eval()


def tokens(*shape: int, vocab: int = 40) -> Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(0))


def test_hessians_of_a_llama_equal_those_computed_by_hand() -> None:
    network = llama(tied=False)
    ids = tokens(5, 8)
    names = [name for name, _ in network.named_parameters()]
    batches = [{"input_ids": part} for part in ids.split(2)]  # 2, 2, 1
    found = gather_metrics(network, batches, names, "input")
    with torch.no_grad():
        hidden = network(input_ids=ids, output_hidden_states=True).hidden_states
        layer = network.model.layers[0]
        normed = layer.input_layernorm(network.model.embed_tokens(ids))
        gate, up = (getattr(network.model.layers[1].mlp, part) for part in ("gate_proj", "up_proj"))
        inputs: list[Tensor] = []
        handle = network.model.layers[1].mlp.register_forward_hook(
            lambda _m, args, _o: inputs.append(args[0])
        )
        network(input_ids=ids)
        handle.remove()
        inner = nn.functional.silu(gate(inputs[0])) * up(inputs[0])
    expected = {
        "model.layers.0.self_attn.q_proj.weight": gram(normed),
        "model.layers.1.mlp.down_proj.weight": gram(inner),
        "lm_head.weight": gram(hidden[-1]),
    }
    for name, hessian in expected.items():
        torch.testing.assert_close(found[name].hessian, hessian)
        assert found[name].row_weight is None, "an error costs the same in every output"
    assert len(found) == 2 * 7 + 2  # no norm has one
    assert {metric.kind for metric in found.values()} == {"input"}
    assert not any(metric.fallback for metric in found.values())


def test_an_embeddings_rows_cost_their_tokens_frequency() -> None:
    network = llama(tied=False)
    ids = torch.tensor([[3, 3, 3, 5, 7, 7]])
    name = "model.embed_tokens.weight"
    metric = gather_metrics(network, [{"input_ids": ids}], [name], "input")[name]
    assert metric.hessian is None
    assert metric.row_weight is not None
    counts = torch.full((40,), 0.5)  # tokens that do not occur: half an occurrence
    counts[[3, 5, 7]] = torch.tensor([3.0, 1.0, 2.0])
    torch.testing.assert_close(metric.row_weight, counts / counts.mean())


def test_a_tied_weight_has_the_cost_of_both_its_uses() -> None:
    network, ids = llama(tied=True), tokens(4, 8)
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    found = gather_metrics(network, [{"input_ids": ids}], names, "input")
    assert found[names[0]] is found[names[1]]
    metric = found[names[0]]
    error = torch.randn(40, 16)
    with torch.no_grad():
        hidden = network(input_ids=ids, output_hidden_states=True).hidden_states[-1].flatten(0, 1)
    as_head = (hidden @ error.T).square().sum(1).mean()  # of logits, a position
    counts = ids.flatten().bincount(minlength=40).clamp_min(0.5)
    as_embedding = (error.square().sum(1) * counts).sum() / ids.numel()  # of vectors, a position
    # one Kronecker product cannot be the sum of two, but for an error alike in all directions it is on average:
    # 640 random entries come within a few percent
    assert metric.cost(error) == pytest.approx(float(as_head + as_embedding), rel=0.15)
    single = gather_metrics(llama(tied=False), [{"input_ids": ids}], names, "input")
    assert single[names[0]].hessian is None
    assert single[names[1]].row_weight is None


def test_padded_positions_are_not_counted() -> None:
    network, ids = llama(tied=False), tokens(3, 8)
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[2, 2:] = 0, 0
    names = ["model.layers.0.self_attn.k_proj.weight", "model.embed_tokens.weight"]
    found = gather_metrics(network, [{"input_ids": ids, "attention_mask": mask}], names, "input")
    with torch.no_grad():
        normed = network.model.layers[0].input_layernorm(network.model.embed_tokens(ids))
    torch.testing.assert_close(found[names[0]].hessian, gram(normed[mask.bool()]))
    counts = ids[mask.bool()].bincount(minlength=40).clamp_min(0.5)
    torch.testing.assert_close(found[names[1]].row_weight, counts / counts.mean())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_a_convolution_has_the_moment_of_its_patches(padding: int | str, groups: int) -> None:
    network = nn.Module()
    network.conv = nn.Conv2d(4, 8, 3, padding=padding, groups=groups, bias=False)  # 4 groups: depthwise
    network.forward = lambda pixels: network.conv(pixels)
    pixels = torch.randn(2, 4, 7, 6)
    pixels[:, 0] *= 3  # groups differ
    metric = gather_metrics(network, [{"pixels": pixels}], ["conv.weight"], "input")["conv.weight"]
    assert metric.hessian is not None
    kernel = network.conv.weight.detach().flatten(1)
    assert metric.hessian.shape == (kernel.shape[1], kernel.shape[1])
    error = torch.randn_like(kernel)
    energy = nn.functional.conv2d(
        pixels, error.view_as(network.conv.weight), padding=padding, groups=groups
    ).square()
    if groups == 1:
        # the cost is the mean energy of an output position, in the order of weight.flatten(1)
        assert metric.cost(error) == pytest.approx(float(energy.sum(1).mean()), rel=1e-5)
        return
    # groups share a hessian, so the cost is right on average over errors: here over 8 rows of 9 or 18 entries
    assert metric.cost(error) == pytest.approx(float(energy.sum(1).mean()), rel=0.5)
    assert metric.row_weight is not None
    assert metric.row_weight[0] > 2 * metric.row_weight[-1], "the loud group's rows cost more"


def test_a_strided_circular_convolution_has_the_moment_of_its_patches() -> None:
    network = nn.Module()
    network.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, padding_mode="circular", bias=False)
    network.forward = lambda pixels: network.conv(pixels)
    pixels = torch.randn(2, 3, 8, 6)
    metric = gather_metrics(network, [{"pixels": pixels}], ["conv.weight"], "input")["conv.weight"]
    energy = network.conv(pixels).detach().square().sum(1).mean()
    assert metric.cost(network.conv.weight.detach().flatten(1)) == pytest.approx(float(energy), rel=1e-5)


def test_a_transposed_weight_has_row_weights_for_its_inputs() -> None:
    from transformers.pytorch_utils import Conv1D

    network = nn.Module()
    network.layer = Conv1D(5, 4)  # weight [4 in, 5 out]
    network.forward = lambda x: network.layer(x)
    x = torch.randn(3, 7, 4) * torch.tensor([1.0, 2.0, 0.5, 4.0])
    metric = gather_metrics(network, [{"x": x}], ["layer.weight"], "input")["layer.weight"]
    squares = x.flatten(0, 1).square().mean(0)
    assert metric.hessian is None
    torch.testing.assert_close(metric.row_weight, squares / squares.mean())


def test_the_network_is_left_as_it_was() -> None:
    network = Toy().train()
    network.norm.eval()  # a mode of its own comes back too
    ids = tokens(4, 8, vocab=10)
    done: list[int] = []
    batches = [{"input_ids": part} for part in ids.split(2)]
    found = gather_metrics(network, batches, ["linear.weight"], "input", progress=done.append)
    torch.testing.assert_close(found["linear.weight"].hessian, gram(network.embedding(ids).detach()))
    assert done == [1, 2]
    assert network.training
    assert network.dropout.training
    assert not network.norm.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_hooks_and_mode_are_restored_after_an_error() -> None:
    network = Toy().train()
    with pytest.raises(IndexError):
        gather_metrics(network, [{"input_ids": torch.tensor([[99]])}], ["linear.weight"], "input")  # of 10
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_what_has_no_metric_says_why() -> None:
    network = Toy()
    names = ["linear.weight", "unused.weight", "table", "linear.bias", "norm.weight"]
    found = gather_metrics(network, [{"input_ids": tokens(2, 8, vocab=10)}], names, "input")
    assert {name: metric.fallback for name, metric in found.items()} == {
        "linear.weight": "",
        "unused.weight": "input: no batch reached it",
        "table": "input: no layer that calibration knows multiplies with it",
    }  # vectors have none, and need none
    assert found["unused.weight"].kind == "identity"
    assert found["unused.weight"].hessian is None


def test_unknown_names_kinds_and_empty_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'linear.weigth', which is no parameter; near: linear.weight"):
        gather_metrics(Toy(), [], ["linear.weigth"], "input")
    with pytest.raises(ValueError, match="kind must be one of identity, input, kl, got 'hessian'"):
        gather_metrics(Toy(), [], ["linear.weight"], "hessian")  # type: ignore[arg-type]
    for kind in ("input", "kl"):
        with pytest.raises(ValueError, match="at least one batch, got none"):
            gather_metrics(Toy(), [], ["linear.weight"], kind)
    assert (
        gather_metrics(Toy(), [], ["norm.weight"], "input") == {}
    )  # nothing to gather, so no data is needed
    assert gather_metrics(Toy(), [], ["linear.weight"], "identity") == {}
