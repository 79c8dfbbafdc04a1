"""Second moments: equal to those of inputs computed by hand, and without traces in the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.calibration import second_moments


def gram(inputs: Tensor) -> Tensor:
    rows = inputs.double().reshape(-1, inputs.shape[-1])
    return (rows.T @ rows / len(rows)).float()


class Toy(nn.Module):
    """One layer of each kind that may or may not have a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.linear = nn.Linear(6, 4)
        self.unused = nn.Linear(6, 4)
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


def test_moments_of_a_llama_equal_those_computed_by_hand() -> None:
    network = llama(tied=True)
    ids = tokens(5, 8)
    names = [name for name, _ in network.named_parameters()]
    found = second_moments(network, [{"input_ids": part} for part in ids.split(2)], names)  # 2, 2, 1
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
    torch.testing.assert_close(found["model.layers.0.self_attn.q_proj.weight"], gram(normed))
    torch.testing.assert_close(found["model.layers.1.mlp.down_proj.weight"], gram(inner))
    # the embedding is the head too, whose inputs are the last hidden states
    torch.testing.assert_close(found["model.embed_tokens.weight"], gram(hidden[-1]))
    assert len(found) == 2 * 7 + 1  # no norm has one


def test_an_untied_embedding_has_no_moment_but_its_head_has() -> None:
    network = llama(tied=False)
    found = second_moments(
        network, [{"input_ids": tokens(2, 8)}], ["model.embed_tokens.weight", "lm_head.weight"]
    )
    assert set(found) == {"lm_head.weight"}


def test_tied_weights_go_by_either_name() -> None:
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    found = second_moments(llama(tied=True), [{"input_ids": tokens(2, 8)}], names)
    assert found[names[0]] is found[names[1]]


def test_padded_positions_are_not_counted() -> None:
    network, ids = llama(tied=True), tokens(3, 8)
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[2, 2:] = 0, 0
    name = "model.layers.0.self_attn.k_proj.weight"
    [found] = second_moments(network, [{"input_ids": ids, "attention_mask": mask}], [name]).values()
    with torch.no_grad():
        normed = network.model.layers[0].input_layernorm(network.model.embed_tokens(ids))
    torch.testing.assert_close(found, gram(normed[mask.bool()]))


@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_a_convolution_has_the_moment_of_its_patches(padding: int | str) -> None:
    network = nn.Module()
    network.conv = nn.Conv2d(3, 4, 3, padding=padding, bias=False)
    network.forward = lambda pixels: network.conv(pixels)
    pixels = torch.randn(2, 3, 7, 6)
    moment = second_moments(network, [{"pixels": pixels}], ["conv.weight"])["conv.weight"]
    # tr(W H W^T) is the mean energy of an output position, in the order of weight.flatten(1)
    kernel = network.conv.weight.detach().flatten(1)
    energy = network.conv(pixels).detach().square().sum(1).mean()
    torch.testing.assert_close((kernel @ moment @ kernel.T).trace(), energy)


def test_the_network_is_left_as_it_was() -> None:
    network = Toy().train()
    network.norm.eval()  # a mode of its own comes back too
    ids = tokens(4, 8, vocab=10)
    done: list[int] = []
    names = ["embedding.weight", "linear.weight", "linear.bias", "unused.weight", "norm.weight"]
    batches = [{"input_ids": part} for part in ids.split(2)]
    found = second_moments(network, batches, names, progress=done.append)
    assert set(found) == {"linear.weight"}
    torch.testing.assert_close(found["linear.weight"], gram(network.embedding(ids).detach()))  # no dropout
    assert done == [1, 2]
    assert network.training
    assert network.dropout.training
    assert not network.norm.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not found["linear.weight"].requires_grad


def test_hooks_and_mode_are_restored_after_an_error() -> None:
    network = Toy().train()
    with pytest.raises(IndexError):
        second_moments(network, [{"input_ids": torch.tensor([[99]])}], ["linear.weight"])  # beyond the 10
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_unknown_names_and_empty_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'linear.weigth', which is no parameter; near: linear.weight"):
        second_moments(Toy(), [], ["linear.weigth"])
    with pytest.raises(ValueError, match="at least one batch"):
        second_moments(Toy(), [], ["linear.weight"])
    assert second_moments(Toy(), [], ["norm.weight"]) == {}  # nothing to gather, so no data is needed
