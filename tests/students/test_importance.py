"""Importance is what the loss does when a part is turned down, and 0 for what does nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.students import (
    layer_removal,
    logit_divergence,
    magnitude_importance,
    measure_importance,
    next_token_loss,
)
from fulgurite.students.families import family_of, norm_names

SCORES = ("layers", "heads", "neurons", "hidden", "queries", "values")


def text_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of any network: a sum over tokens that count, with no symmetry between channels."""
    output = network(**batch)
    found = output.logits if hasattr(output, "logits") else output.last_hidden_state
    weights = torch.linspace(-1, 2, found.shape[-1])
    mask = batch.get("attention_mask", torch.ones(found.shape[:2]))
    return ((found * weights).sum(-1).sin() * mask).sum()


def block(network: Any, layer: int) -> Any:
    return network.get_submodule(family_of(network).blocks)[layer]


def slopes(network: Any, batch: dict[str, Tensor], module: Any) -> dict[str, Tensor]:
    """What the loss does when each weight is turned up in proportion; a matrix as [in, out]."""
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(text_loss(network, batch), list(parameters.values()))
    found = {
        name: each * weight.detach()
        for (name, weight), each in zip(parameters.items(), gradients, strict=True)
    }
    if found["weight"].dim() == 2 and isinstance(module, nn.Linear):
        found["weight"] = found["weight"].T
    return found


def test_taylor_terms_are_slopes_of_the_loss(teacher: Any) -> None:
    batch = {"input_ids": torch.tensor([[7]])}  # one token, so no terms of different sign are added
    importance = measure_importance(teacher, [batch], text_loss)
    family = family_of(teacher)
    # a gate on an activation is one on all weights that read it
    context = slopes(teacher, batch, block(teacher, 1).get_submodule(family.attention_output))["weight"].sum(
        1
    )
    torch.testing.assert_close(importance.heads[1], context.view(4, 8).sum(1).abs(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(importance.values[1], context.abs(), rtol=1e-3, atol=1e-4)
    neurons = slopes(teacher, batch, block(teacher, 2).get_submodule(family.mlp_output))["weight"].sum(1)
    torch.testing.assert_close(importance.neurons[2], neurons.abs(), rtol=1e-3, atol=1e-4)
    assert float(importance.neurons[2].max()) > 0.01  # well above what is let pass
    norms = [slopes(teacher, batch, teacher.get_submodule(name)) for name in norm_names(family, 3)]
    hidden = torch.stack([sum(norm.values()).abs() for norm in norms]).sum(0)
    torch.testing.assert_close(importance.hidden, hidden, rtol=1e-3, atol=1e-4)


def test_queries_matter_by_the_slope_of_the_loss(make_teacher: Any) -> None:
    for name in ("LlamaForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel"):
        teacher = make_teacher(name)
        # the first of two tokens sees only itself, whatever its query; so the mean has one term in it
        batch = {"input_ids": torch.tensor([[7, 9]])}
        importance = measure_importance(teacher, [batch], text_loss)
        found = slopes(teacher, batch, block(teacher, 1).get_submodule(family_of(teacher).query))
        expected = sum(part.sum(0) if part.dim() == 2 else part for part in found.values())[:32]
        torch.testing.assert_close(2 * importance.queries[1], expected.abs(), rtol=1e-3, atol=1e-4)
        assert float(importance.queries[1].max()) > 0.01


@pytest.mark.parametrize("taylor", [True, False])
def test_parts_that_do_nothing_count_nothing(
    make_teacher: Any, batch: dict[str, Tensor], taylor: bool
) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    first, second = block(teacher, 0), block(teacher, 1)
    # what is read of a part, for Taylor terms, or what it gives, for activations
    if taylor:
        second.mlp.down_proj.weight.data[:, 3] = 0
        second.self_attn.o_proj.weight.data[:, 8:16] = 0
    else:
        second.mlp.up_proj.weight.data[3] = 0
        second.self_attn.v_proj.weight.data[:8] = 0  # of the first key-value head, which heads 0 and 1 use
    first.mlp.down_proj.weight.data.zero_()
    first.self_attn.o_proj.weight.data.zero_()
    found = measure_importance(teacher, [batch], next_token_loss if taylor else None)
    assert float(found.neurons[1, 3]) == 0
    assert float(found.heads[1, 1]) == 0
    assert float(found.layers[0]) == pytest.approx(0, abs=1e-6)  # the cosine is rounded
    assert (found.layers[1:] > 0.01).all()
    assert (found.neurons[1] > 0).sum() == 55
    assert (found.heads[1] > 0).sum() == (3 if taylor else 2)


@pytest.mark.parametrize("loss", [text_loss, None])
def test_padding_and_the_size_of_batches_make_no_difference(teacher: Any, loss: Any) -> None:
    rows = torch.randint(2, 40, (3, 8), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(8) < torch.tensor([8, 5, 3])[:, None]).long()
    padded = {"input_ids": rows.where(mask.bool(), 1), "attention_mask": mask}
    alone = [
        {"input_ids": row[None, :length], "attention_mask": torch.ones(1, length, dtype=torch.long)}
        for row, length in zip(rows, (8, 5, 3), strict=True)
    ]
    together = measure_importance(teacher, [padded], loss)
    apart = measure_importance(teacher, alone, loss)
    for name in SCORES:
        torch.testing.assert_close(getattr(together, name), getattr(apart, name), rtol=1e-3, atol=1e-4)
    for name, statistics in together.norms.items():
        torch.testing.assert_close(statistics.square, apart.norms[name].square, rtol=1e-3, atol=1e-4)


def test_a_loss_that_ends_early_leaves_later_layers_at_nothing(make_teacher: Any, batch: Any) -> None:
    def early(network: Any, batch: dict[str, Tensor]) -> Tensor:
        return network(**batch, output_hidden_states=True).hidden_states[2].square().sum()

    found = measure_importance(make_teacher("BertModel"), [batch], early)
    assert (found.neurons[:2] > 0).all()
    assert (found.neurons[2] == 0).all()


def test_a_network_is_left_as_it_was(teacher: Any, batch: dict[str, Tensor], outputs: Any) -> None:
    before = outputs(teacher, batch)
    teacher.train()
    next(teacher.parameters()).requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in teacher.parameters()]
    measure_importance(teacher, [batch], text_loss)
    layer_removal(teacher, [batch], lambda reference, found, batch: torch.zeros(()))
    assert teacher.training
    assert [parameter.requires_grad for parameter in teacher.parameters()] == wanted
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    assert torch.equal(outputs(teacher.eval(), batch), before)


def test_no_batch_and_a_loss_of_nothing_are_refused(make_teacher: Any, batch: dict[str, Tensor]) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    with pytest.raises(ValueError, match="at least one batch, got none"):
        measure_importance(teacher, [], next_token_loss)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        layer_removal(teacher, [], logit_divergence)
    with pytest.raises(ValueError, match="loss must depend on the network's outputs"):
        measure_importance(teacher, [batch], lambda network, batch: torch.zeros(()))
    with pytest.raises(ValueError, match="expected logits .* got BaseModelOutput"):
        measure_importance(make_teacher("BertModel"), [batch], next_token_loss)


def test_removal_is_the_divergence_of_the_network_without_the_layer(make_teacher: Any, batch: Any) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    block(teacher, 1).mlp.down_proj.weight.data.zero_()
    block(teacher, 1).self_attn.o_proj.weight.data.zero_()
    done: list[int] = []
    found = layer_removal(teacher, [batch, batch], logit_divergence, progress=done.append)
    assert done == [1, 2]
    assert float(found[1]) == pytest.approx(0, abs=1e-4)  # rounding of 24 positions, twice
    with torch.no_grad():
        reference = teacher(**batch)
        del teacher.model.layers[0]
        expected = logit_divergence(reference, teacher(**batch, use_cache=False), batch)
    assert float(found[0]) == pytest.approx(2 * float(expected), rel=1e-5)


def test_the_loss_and_divergence_of_language_models(make_teacher: Any, batch: dict[str, Tensor]) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    with torch.no_grad():
        mean = teacher(**batch, labels=batch["input_ids"]).loss  # over the 11 predicted tokens of both rows
        assert float(next_token_loss(teacher, batch)) == pytest.approx(22 * float(mean), rel=1e-5)
        half = {**batch, "attention_mask": torch.tensor([[1] * 12, [0] * 12])}
        first = {"input_ids": batch["input_ids"][:1]}
        assert float(next_token_loss(teacher, half)) == pytest.approx(
            float(next_token_loss(teacher, first)), rel=1e-5
        )
    sharp, flat = torch.tensor([[[0.0, 1.0]]]).log_softmax(-1), torch.zeros(1, 1, 2)
    assert float(logit_divergence(sharp, sharp, {})) == pytest.approx(0, abs=1e-7)
    expected = float((sharp.exp() * (sharp + torch.tensor(2.0).log())).sum())  # against a half each
    assert float(logit_divergence(sharp, flat, {})) == pytest.approx(expected, rel=1e-5)
    assert float(logit_divergence(sharp, flat, {"attention_mask": torch.zeros(1, 1)})) == 0


def test_magnitudes_are_norms_of_all_weights_of_a_part(make_teacher: Any) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    layer = block(teacher, 1)
    found = magnitude_importance(teacher)
    mlp = [layer.mlp.gate_proj.weight[4], layer.mlp.up_proj.weight[4], layer.mlp.down_proj.weight[:, 4]]
    assert float(found.neurons[1, 4]) == pytest.approx(float(torch.cat(mlp).detach().norm()), rel=1e-5)
    total = sum(float(parameter.detach().square().sum()) for parameter in layer.parameters())
    assert float(found.layers[1]) == pytest.approx(total**0.5, rel=1e-5)
    # heads share out what all of the attention has
    attention = sum(float(parameter.detach().square().sum()) for parameter in layer.self_attn.parameters())
    assert float(found.heads[1].square().sum()) == pytest.approx(attention, rel=1e-5)
    assert found.norms == {}


def test_stacked_projections_are_taken_apart(make_teacher: Callable[..., Any]) -> None:
    teacher = make_teacher("GPT2LMHeadModel")
    attention = block(teacher, 2).attn
    found = magnitude_importance(teacher)
    channels = [*range(16, 24), *range(48, 56), *range(80, 88)]  # of head 2 in queries, keys, values
    parts = [
        attention.c_attn.weight[:, channels],
        attention.c_attn.bias[channels],
        attention.c_proj.weight[16:24],
    ]
    expected = torch.cat([part.detach().flatten() for part in parts]).norm()
    assert float(found.heads[2, 2]) == pytest.approx(float(expected), rel=1e-5)
