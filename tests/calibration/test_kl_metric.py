"""The metric ``kl``: the exact Fisher information where it is known, and the divergence that it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fulgurite.calibration import Metric, gather_metrics, softmax_curvature

TOKENS = 40


class Classifier(nn.Module):
    """One linear layer under a softmax: its Fisher information has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits


def class_loss(network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
    return softmax_curvature(network(**batch), generator)


def drawn_loss(network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
    """The textbook's: answers from the network's own distribution, one a position."""
    logits = network(**batch).logits.float().flatten(0, 1)
    answers = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    return functional.cross_entropy(logits, answers, reduction="sum")


def llama(tied: bool, scale: float = 10.0) -> Any:
    """A Llama whose weights are large enough (0.2) that its outputs are far from uniform."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = {"vocab_size": TOKENS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    config = LlamaConfig(**settings, **heads, tie_word_embeddings=tied, initializer_range=0.02 * scale)
    return LlamaForCausalLM(config).eval()


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(TOKENS, shape, generator=torch.Generator().manual_seed(seed))


def batches(count: int, size: int = 16, seed: int = 0) -> list[dict[str, Tensor]]:
    return [{"input_ids": part} for part in ids(count * size, 16, seed=seed).split(size)]


def divergence(network: nn.Module, weight: Tensor, error: Tensor, inputs: list[dict[str, Tensor]]) -> float:
    """Mean KL per position from the network as it is to the one with the error in its weight, nats."""
    with torch.no_grad():
        before = [network(**batch).logits.double().log_softmax(-1) for batch in inputs]
        weight += error
        after = [network(**batch).logits.double().log_softmax(-1) for batch in inputs]
        weight -= error
    each = [(old.exp() * (old - new)).sum(-1) for old, new in zip(before, after, strict=True)]
    return float(torch.cat(each).mean())


def parts(metric: Metric) -> tuple[Tensor, Tensor]:
    assert metric.hessian is not None
    assert metric.row_weight is not None
    return metric.hessian, metric.row_weight


def test_the_metric_of_a_softmax_layer_is_its_fisher_information() -> None:
    network, features = Classifier(), 2 * torch.randn(64, 6)
    repeated = [{"features": features}] * 400
    found = gather_metrics(
        network,
        repeated,
        ["linear.weight"],
        "kl",
        sampled_loss=class_loss,
        count_places=lambda batch: len(batch["features"]),
    )
    hessian, row_weight = parts(found["linear.weight"])
    probability = network(features).detach().softmax(-1)
    variance = probability * (1 - probability)  # the diagonal of diag(p) - p p^T
    exact = torch.einsum("n,ni,nj->ij", variance.sum(1), features, features) / (5 * 64)
    rows = (variance * features.square().sum(1, keepdim=True)).mean(0)
    # 25,600 draws with a spread of the order of the mean: 1 / sqrt(25600) is 0.6 %, and four times that
    torch.testing.assert_close(hessian, exact, rtol=0, atol=0.025 * float(exact.diagonal().max()))
    torch.testing.assert_close(row_weight, rows / rows.mean(), rtol=0.025, atol=0)
    assert float(row_weight.mean()) == pytest.approx(1)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.k_proj.weight",  # what its errors have in common costs nothing
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "lm_head.weight",
        "model.embed_tokens.weight",
    ],
)
def test_half_the_cost_of_an_error_is_the_divergence(name: str) -> None:
    network, inputs = llama(tied=False), batches(16)
    metric = gather_metrics(network, inputs, [name], "kl")[name]
    weight = network.get_parameter(name)
    costs = effects = 0.0
    for seed in range(12):  # the expectation over errors is what is promised
        error = 0.01 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        costs += metric.cost(error) / 2
        effects += divergence(network, weight, error, inputs)
    # one error of the smallest matrix, 128 entries, is off by 17 %, their mean by 5 %; three times that
    assert costs == pytest.approx(effects, rel=0.15)


def test_row_weights_say_which_rows_cost_more() -> None:
    network, inputs = llama(tied=False), batches(16)
    name = "model.layers.1.mlp.up_proj.weight"
    metric = gather_metrics(network, inputs, [name], "kl")[name]
    weight = network.get_parameter(name)
    _, row_weight = parts(metric)
    order = row_weight.argsort()
    effects = []
    for rows in (order[:6], order[-6:]):  # of 24
        error = torch.zeros_like(weight)
        error[rows] = 0.01 * torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
        effects.append(divergence(network, weight, error, inputs))
        assert metric.cost(error) / 2 == pytest.approx(effects[-1], rel=0.4)
    assert effects[1] > 1.5 * effects[0]


def test_a_tied_weight_has_the_cost_of_both_its_uses() -> None:
    name, inputs = "model.embed_tokens.weight", batches(16)
    tied = llama(tied=True)
    split = llama(tied=False)
    split.load_state_dict({**tied.state_dict(), "lm_head.weight": tied.lm_head.weight.clone()})
    both = gather_metrics(tied, inputs, [name], "kl")[name]
    single = gather_metrics(split, inputs, [name, "lm_head.weight"], "kl")
    sides = [parts(metric) for metric in (single[name], single["lm_head.weight"])]
    hessian, row_weight = parts(both)
    # the same numbers are drawn for both networks, so that the sums agree
    torch.testing.assert_close(hessian, sum(side[0] for side in sides), rtol=1e-3, atol=1e-6)
    weighted = sum(side[1] * side[0].trace() for side in sides)
    assert isinstance(weighted, Tensor)
    torch.testing.assert_close(row_weight, weighted / weighted.mean(), rtol=1e-3, atol=1e-6)
    weight = tied.get_parameter(name)
    error = 0.01 * weight.std() * torch.randn(weight.shape)
    # the uses' cross terms, which have no sign, are left out
    assert both.cost(error) / 2 == pytest.approx(divergence(tied, weight, error, inputs), rel=0.3)


def test_an_embeddings_rare_tokens_cost_little_and_unseen_ones_half_an_occurrence() -> None:
    network, name = llama(tied=False), "model.embed_tokens.weight"
    inputs = [{"input_ids": ids(8, 16) % 10} for _ in range(4)]  # 30 of 40 tokens do not occur
    hessian, row_weight = parts(gather_metrics(network, inputs, [name], "kl")[name])
    assert hessian.shape == (16, 16)
    unseen, seen = row_weight[10:], row_weight[:10]
    assert (unseen == unseen[0]).all()
    # 512 occurrences have the weight of all ten rows
    assert float(unseen[0]) == pytest.approx(0.5 * float(seen.sum()) / 512, rel=1e-4)


def test_answers_drawn_from_the_outputs_give_the_same_metric() -> None:
    network, name = llama(tied=False), "model.layers.0.mlp.gate_proj.weight"
    hessian, row_weight = parts(gather_metrics(network, batches(32), [name], "kl")[name])
    drawn = gather_metrics(network, batches(32), [name], "kl", sampled_loss=drawn_loss)[name]
    other_hessian, other_rows = parts(drawn)
    # two random estimates from 8,192 positions, of which some have ten times the mean gradient
    assert float((hessian - other_hessian).norm() / hessian.norm()) < 0.15
    assert float((row_weight - other_rows).norm() / row_weight.norm()) < 0.15


def test_a_transposed_weight_has_the_sides_of_a_linear_layers_exchanged() -> None:
    from transformers.pytorch_utils import Conv1D

    plain, turned = Classifier(), nn.Module()
    turned.layer = Conv1D(5, 6)  # weight [6 in, 5 out]
    turned.layer.weight.data = plain.linear.weight.data.T.contiguous()
    turned.layer.bias.data = plain.linear.bias.data
    turned.forward = lambda features: turned.layer(features)
    inputs = [{"features": torch.randn(64, 6) * torch.arange(1, 7)} for _ in range(4)]
    common: dict[str, Any] = {
        "sampled_loss": class_loss,
        "count_places": lambda batch: len(batch["features"]),
    }
    linear = parts(gather_metrics(plain, inputs, ["linear.weight"], "kl", **common)["linear.weight"])
    conv1d = parts(gather_metrics(turned, inputs, ["layer.weight"], "kl", **common)["layer.weight"])
    assert conv1d[0].shape == (5, 5)
    for first, second in ((linear, conv1d), (conv1d, linear)):
        diagonal = first[0].diagonal()
        torch.testing.assert_close(second[1], diagonal / diagonal.mean())
    assert 5 * linear[0].trace() == pytest.approx(6 * float(conv1d[0].trace()))


class Pictures(nn.Module):
    """Two convolutions, an activation in place after the first, and a mean over all places."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
        self.second = nn.Conv2d(8, 6, 3, stride=2, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.second(functional.relu(self.first(pixels), inplace=True)).mean((2, 3))
        return 10 * logits  # so that the classes differ


@pytest.mark.parametrize("groups", [1, 4])
def test_half_the_cost_is_the_divergence_for_convolutions_too(groups: int) -> None:
    network = Pictures(groups)
    pixels = torch.randn(2048, 4, 9, 9) + torch.randn(2048, 4, 1, 1)  # places of a picture are alike
    inputs = [{"pixels": part} for part in pixels.split(256)]
    names = ["first.weight", "second.weight"]
    found = gather_metrics(network, inputs, names, "kl", sampled_loss=class_loss)
    for name in names:
        weight = network.get_parameter(name)
        costs = effects = 0.0
        for seed in range(8):
            error = (
                0.02 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
            )
            with torch.no_grad():
                before = network(pixels).double().log_softmax(-1)
                weight += error
                after = network(pixels).double().log_softmax(-1)
                weight -= error
            costs += found[name].cost(error.flatten(1)) / 2
            effects += float((before.exp() * (before - after)).sum(-1).mean())
        # 8 errors of a few directions that matter; with places taken for independent it is 3 to 30 times less
        assert costs == pytest.approx(effects, rel=0.3), name


def test_padding_changes_nothing() -> None:
    network = llama(tied=False)
    names = ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"]
    text = ids(4, 8)
    padded = torch.cat([text, torch.zeros(4, 3, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones(4, 8), torch.zeros(4, 3)], 1).long()

    def same_draws(network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
        logits = network(**batch).logits[:, :8]
        return softmax_curvature(logits, generator, torch.ones(4, 8))

    bare = gather_metrics(network, [{"input_ids": text}], names, "kl", sampled_loss=same_draws)
    with_padding = [{"input_ids": padded, "attention_mask": mask}]
    found = gather_metrics(network, with_padding, names, "kl", sampled_loss=same_draws)
    for name in names:
        for one, other in zip(parts(found[name]), parts(bare[name]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    # and the default loss leaves padding out by itself: one draw from many positions is near the other
    default = gather_metrics(network, with_padding * 50, names, "kl")[names[0]]
    assert float(parts(default)[0].trace() / parts(found[names[0]])[0].trace()) == pytest.approx(1, rel=0.5)


def test_the_seed_decides() -> None:
    network, name = llama(tied=False), "lm_head.weight"
    first, again, other = (
        parts(gather_metrics(network, batches(2), [name], "kl", seed=seed)[name])[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_network_is_left_as_it_was() -> None:
    network = llama(tied=True).train()
    network.model.norm.requires_grad_(False)
    asked = {name: weight.requires_grad for name, weight in network.named_parameters()}
    with torch.no_grad():  # as a caller may have it
        gather_metrics(network, batches(1), ["model.layers.0.mlp.up_proj.weight"], "kl")
    assert network.training
    assert {name: weight.requires_grad for name, weight in network.named_parameters()} == asked
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


class Troubled(nn.Module):
    """A classifier with side branches whose metrics are not usable, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Linear(6, 5)
        self.ignored = nn.Linear(6, 5)
        self.sharp = nn.Linear(6, 5)
        self.spoilt = nn.Linear(6, 5)
        self.broken = nn.Linear(6, 5)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.good(features) + 0 * self.ignored(features)
        logits = logits + (0 * self.sharp(features)).sqrt()  # 0, with an infinite gradient
        copy = features.clone()
        logits = logits + self.spoilt(copy)
        copy.zero_()
        self.broken(features * torch.inf * 0)  # NaN that goes nowhere
        return logits


def test_an_unusable_metric_falls_back_and_says_why() -> None:
    names = [f"{name}.weight" for name in ("good", "ignored", "sharp", "spoilt", "broken")]
    done: list[int] = []
    found = gather_metrics(
        Troubled(),
        [{"features": torch.randn(8, 6)}] * 2,
        names,
        "kl",
        sampled_loss=class_loss,
        progress=done.append,
    )
    assert {name: (metric.kind, metric.fallback) for name, metric in found.items()} == {
        "good.weight": ("kl", ""),
        "ignored.weight": ("input", "kl: is zero: nothing depends on this weight"),
        "sharp.weight": ("input", "kl: has NaN or infinite values"),
        "spoilt.weight": ("input", "kl: the network changes its input in place"),
        "broken.weight": (
            "identity",
            "kl: no batch's loss depends on it; input: has NaN or infinite values",
        ),
    }
    assert found["spoilt.weight"].hessian is not None
    assert found["broken.weight"].hessian is None
    assert done == [1, 2, 3, 4], "those that fell back took a second pass"


def test_a_network_that_gives_nan_has_no_kl_metric_but_the_inputs_it_still_has() -> None:
    network = llama(tied=False)
    network.model.layers[1].self_attn.o_proj.weight.data[0, 0] = torch.nan
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    ]
    *before, after = gather_metrics(network, batches(1), names, "kl").values()
    for metric in before:
        assert (metric.kind, metric.fallback) == ("input", "kl: has NaN or infinite values")
    assert (after.kind, after.fallback) == (
        "identity",
        "kl: has NaN or infinite values; input: has NaN or infinite values",
    )


def test_a_network_without_logits_needs_a_loss_of_its_own() -> None:
    with pytest.raises(
        ValueError, match=r"Classifier must give logits .* got shape \[8, 5\]; other networks"
    ):
        gather_metrics(Classifier(), [{"features": torch.randn(8, 6)}], ["linear.weight"], "kl")
