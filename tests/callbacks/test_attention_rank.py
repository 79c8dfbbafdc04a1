"""The stage that truncates the products of attention's weights, on each way in which networks hold these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    BlipConfig,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from callbacks.stages import AttentionRankStage
from callbacks.stages.structure import Work
from fulgurite.models import attentions_of

TOKENS = torch.randint(0, 60, (6, 16), generator=torch.Generator().manual_seed(0))


class Subject:
    """As much of a module as the stage asks for."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self.made: Any = None

    def calibration_batches(self, datamodule: Any) -> list[dict[str, Tensor]]:
        return [{"input_ids": TOKENS}]

    def text_mask(self, batch: dict[str, Tensor]) -> None:
        return None

    def save_as(self, folder: Path, network: nn.Module) -> None:
        self.made = network.eval()


def randomised(network: nn.Module) -> nn.Module:
    """With biases that matter and hidden states that are not alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" not in name.lower() and "ln_" not in name:
                weight.normal_(0, 0.2, generator=generator)
    return network


def bert() -> nn.Module:
    config = BertConfig(
        vocab_size=60, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=32
    )
    return randomised(AutoModel.from_config(config))


def gpt2() -> nn.Module:
    return randomised(
        GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=24, n_head=3, n_layer=2, n_positions=32))
    )


def clip_text() -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=60, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=32
    )
    return randomised(CLIPTextModel(config))


def llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,  # each serves two heads of queries
        num_hidden_layers=2,
        intermediate_size=32,
    )
    return randomised(LlamaForCausalLM(config))


def qwen() -> nn.Module:
    config = Qwen2Config(
        vocab_size=60,
        hidden_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
    )
    return randomised(Qwen2ForCausalLM(config))  # values have a bias, the output has none


class Fused(nn.Module):
    """``nn.MultiheadAttention`` as open_clip's towers use it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 24)
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        hidden = self.embedding(input_ids)
        return (self.attention(hidden, hidden, hidden, need_weights=False)[0],)


def fused() -> nn.Module:
    return randomised(Fused())


BUILDERS = [bert, gpt2, clip_text, llama, qwen, fused]


def run(stage: AttentionRankStage, network: nn.Module, folder: Path) -> tuple[nn.Module, Any]:
    def silent(what: str, done: int, total: int, loss: float | None) -> None: ...

    subject: Any = Subject(network)
    work = Work(
        subject=subject,
        reference=subject,
        datamodule=LightningDataModule(),
        folder=folder,
        device=torch.device("cpu"),
        cache=folder,
        progress=silent,
        check=lambda: None,
    )
    facts = stage.build(work, folder / "network")
    return subject.made, facts


def output(network: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(input_ids=TOKENS)[0]
    return found


@pytest.mark.parametrize("build", BUILDERS)
def test_with_all_energy_the_network_computes_what_it_did(build: Any, tmp_path: Path) -> None:
    network = build()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    turned, facts = run(AttentionRankStage(energy=1.0), network, tmp_path)
    assert facts["pairs_kept"] == facts["pairs"]
    torch.testing.assert_close(output(turned), output(network), rtol=1e-4, atol=2e-5)
    for old, new in zip(attentions_of(network), attentions_of(turned), strict=True):
        assert not torch.allclose(old.value.rows, new.value.rows, atol=1e-3), "another basis"
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name]), "the network that it was made of is as it was"


@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_left_out_are_rows_of_zeros(build: Any, tmp_path: Path) -> None:
    network = build()
    turned, facts = run(AttentionRankStage(keep=0.5), network, tmp_path)
    for product, total in facts["pairs"].items():
        assert facts["pairs_kept"][product] == (total // 2 if total else 0)
        assert total == 0 or 0 < facts["energy_lost_most"][product] < 0.5  # the smaller half of the pairs
    for block in attentions_of(turned):
        empty = (block.value.rows == 0).all(dim=1)
        assert int(empty.sum()) == block.value.count // 2
        columns = (block.output.rows == 0).all(dim=0)
        assert int(columns.sum()) == block.output.rows.shape[1] // 2
        if not block.between:
            assert torch.equal((block.query.rows == 0).all(dim=1), (block.key.rows == 0).all(dim=1))
    assert not torch.allclose(output(turned), output(network), atol=1e-3)


def test_rotated_queries_and_keys_stay(tmp_path: Path) -> None:
    network = llama()
    turned, facts = run(AttentionRankStage(keep=0.5), network, tmp_path)
    assert facts["pairs"] == {
        "queries_keys": 0,
        "values_output": 2 * 2 * 6,
    }  # layers, key-value heads, channels
    for old, new in zip(attentions_of(network), attentions_of(turned), strict=True):
        assert torch.equal(old.query.rows, new.query.rows)
        assert torch.equal(old.key.rows, new.key.rows)
    with pytest.raises(
        ValueError, match="LlamaForCausalLM are rotated by their position, so that they have no"
    ):
        run(AttentionRankStage(products=["queries_keys"]), network, tmp_path)


def test_a_network_that_rotates_without_a_sign_of_it_is_refused(tmp_path: Path) -> None:
    config = GPTJConfig(vocab_size=60, n_embd=24, n_head=3, n_layer=1, n_positions=32, rotary_dim=4)
    network = randomised(GPTJForCausalLM(config))
    with pytest.raises(
        ValueError, match="GPTJForCausalLM must compute the same .* does more than is known of it"
    ):
        run(AttentionRankStage(), network, tmp_path)
    values, _ = run(AttentionRankStage(energy=1.0, products=["values_output"]), network, tmp_path)
    torch.testing.assert_close(output(values), output(network), rtol=1e-4, atol=2e-5)


def test_inputs_decide_what_is_left_out(tmp_path: Path) -> None:
    """Truncation in the metric of the inputs loses less at the outputs than the truncation of weights alone."""
    network = bert()
    with torch.no_grad():  # states that lie in some directions far more than in others
        network.embeddings.LayerNorm.weight.copy_(torch.logspace(0.5, -2, 24))
    settings: dict[str, Any] = {"keep": 0.4, "select": "encoder.layer.0.attention"}
    met, _ = run(AttentionRankStage(**settings), network, tmp_path)
    # so much damping that the second moment is the identity's
    blind, _ = run(AttentionRankStage(damping=1e9, **settings), network, tmp_path)
    exact = output(network)
    assert float((output(met) - exact).square().sum()) < 0.7 * float((output(blind) - exact).square().sum())


def test_blip_has_both_kinds_of_attention_and_attention_to_pictures() -> None:
    from transformers import BlipForConditionalGeneration

    text = {
        "hidden_size": 24,
        "encoder_hidden_size": 32,
        "num_attention_heads": 3,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "vocab_size": 60,
    }
    vision = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 16,
    }
    blocks = attentions_of(BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)))
    assert [block.name.rpartition(".")[2] for block in blocks] == ["self_attn", "attention", "crossattention"]
    assert [block.head_dim for block in blocks] == [8, 8, 8]
    assert blocks[2].key.rows.shape == (24, 32)  # reads pictures' states


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energy": 0.0}, "energy must be above 0 and at most 1, got 0"),
        ({"keep": 1.5}, "keep must be above 0 and at most 1, got 1.5"),
        ({"energy": 0.9, "keep": 0.5}, "one of energy and keep may be given"),
        ({"products": ["keys"]}, "products must be some of queries_keys, values_output"),
        ({"damping": -1.0}, "damping must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionRankStage(**settings)


def test_a_network_without_attention_and_a_name_without_match_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear has no attention whose parts are known"):
        run(AttentionRankStage(), nn.Linear(3, 3), tmp_path)
    with pytest.raises(ValueError, match=r"no match for \['x'\]; blocks are named encoder.layer.0.attention"):
        run(AttentionRankStage(select="x"), bert(), tmp_path)
