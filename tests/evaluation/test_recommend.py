"""What a failed gate says about the weights."""

import math

import numpy as np
import pytest

from fulgurite.evaluation import Gate, Measure, Verdict, diagnose, group_errors, weight_group


def measured(value: float) -> list[Measure]:
    items = np.linspace(0.9, 1.1, 50) - 1 + value  # mean ``value``; chance is 3
    return [Measure("bits_per_byte", items, np.ones(50), np.full(50, 3.0), False, "bits/byte")]


def verdict(value: float, previous: float = 1.0) -> Verdict:
    return Gate().decide(measured(1.0), measured(previous), measured(value), 0)


def llama_errors(**groups: float) -> dict[str, float]:
    errors = {"model.embed_tokens.weight": groups.get("embedding", 0.01)}
    for layer in range(4):
        attention = (
            groups.get("attention", 0.01) if layer else groups.get("first", groups.get("attention", 0.01))
        )
        mlp = groups.get("mlp", 0.01) if layer else groups.get("first", groups.get("mlp", 0.01))
        errors |= {f"model.layers.{layer}.self_attn.{part}_proj.weight": attention for part in "qkvo"}
        errors |= {f"model.layers.{layer}.mlp.{part}_proj.weight": mlp for part in ("gate", "up", "down")}
    return errors


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("transformer.wpe.weight", "embedding"),
        ("token_embedding.weight", "embedding"),
        ("positional_embedding", "embedding"),
        ("bert.embeddings.word_embeddings.weight", "embedding"),
        ("vision_model.embeddings.patch_embedding.weight", "embedding"),
        ("visual.conv1.weight", "embedding"),
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("transformer.h.0.attn.c_proj.weight", "attention"),
        ("bert.encoder.layer.0.attention.self.query.weight", "attention"),
        ("bert.encoder.layer.0.attention.output.dense.weight", "attention"),
        ("bert.encoder.layer.0.crossattention.self.key.weight", "attention"),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", "attention"),
        ("visual.transformer.resblocks.0.attn.out_proj.weight", "attention"),
        ("model.layers.3.mlp.down_proj.weight", "mlp"),
        ("transformer.h.0.mlp.c_proj.weight", "mlp"),
        ("bert.encoder.layer.0.intermediate.dense.weight", "mlp"),
        ("bert.encoder.layer.0.output.dense.weight", "mlp"),
        ("transformer.resblocks.0.mlp.c_fc.weight", "mlp"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "mlp"),
        ("model.layers.0.post_attention_layernorm.weight", "norm"),
        ("bert.encoder.layer.0.attention.output.LayerNorm.weight", "norm"),
        ("transformer.h.0.ln_1.weight", "norm"),
        ("visual.ln_post.weight", "norm"),
        ("text_projection", "other"),
        ("bert.pooler.dense.weight", "other"),
    ],
)
def test_weights_are_grouped_by_their_names(name: str, group: str) -> None:
    assert weight_group(name) == group


@pytest.mark.parametrize("worst", ["attention", "mlp", "embedding"])
def test_the_group_with_the_largest_error_is_named(worst: str) -> None:
    diagnosis = diagnose(verdict(1.05), llama_errors(**{worst: 0.05}))
    assert diagnosis.pattern == "core"
    assert diagnosis.severity == "mild"
    assert diagnosis.weakest[0] == worst
    assert f"largest relative error: {worst} 0.05" in diagnosis.sentence


def test_a_bad_first_layer_is_told_from_its_kinds() -> None:
    diagnosis = diagnose(verdict(1.5), llama_errors(first=0.2))
    assert (diagnosis.severity, diagnosis.weakest[0]) == ("severe", "first layer")
    assert diagnosis.sentence.startswith("the stage loses too much (severe)")


def test_where_nothing_stands_out_the_worst_group_is_named_alone() -> None:
    assert diagnose(verdict(1.05), llama_errors(mlp=0.0105)).weakest == ("mlp",)


def test_groups_are_means_by_hand_and_layers_are_counted_in_each_tower() -> None:
    errors = {f"transformer.resblocks.{i}.attn.in_proj_weight": 0.1 for i in range(3)}
    errors |= {f"visual.transformer.resblocks.{i}.mlp.c_fc.weight": 0.2 + 0.1 * i for i in range(4)}
    means = group_errors(errors)
    assert means["attention"] == pytest.approx(0.1)
    assert means["mlp"] == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)
    assert means["first layer"] == pytest.approx((0.1 + 0.2) / 2)
    assert means["last layer"] == pytest.approx((0.1 + 0.5) / 2)  # 2 is the text tower's last, 3 the other's


def test_two_layers_are_no_first_and_last() -> None:
    assert set(group_errors({f"h.{i}.attn.c_attn.weight": 0.1 for i in range(2)})) == {"attention"}


def test_stages_that_fail_only_together_are_an_integration_failure() -> None:
    # 0.99 of a previous stage that kept 0.84: the bound holds for the stage and not for the whole
    result = verdict(3 - 2 * 0.84 * 0.99, previous=3 - 2 * 0.84)
    assert result.retention_low is not None
    assert result.retention_low >= 0.98
    assert diagnose(result, llama_errors()).pattern == "integration"


def test_accepted_diverged_and_undecided_are_told_apart() -> None:
    accepted = diagnose(verdict(1.0), llama_errors(attention=1.0))
    assert (accepted.pattern, accepted.severity, accepted.weakest) == ("none", "none", ())
    diverged = diagnose(verdict(math.nan), llama_errors(embedding=math.inf))
    assert (diverged.pattern, diverged.severity, diverged.weakest) == ("diverged", "severe", ("embedding",))
    at_chance = Gate().decide(measured(3.0), measured(3.0), measured(3.0), 0)
    assert diagnose(at_chance, {}).pattern == "undecided"


def test_without_errors_no_group_is_blamed() -> None:
    diagnosis = diagnose(verdict(1.05), {})
    assert diagnosis.weakest == ()
    assert diagnosis.sentence == "the stage loses too much (mild)"
