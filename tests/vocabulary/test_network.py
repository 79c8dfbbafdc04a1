"""A network of the kept tokens says of them what the whole one said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from fulgurite.models import load_causal_lm, load_tokenizer, tied_names
from fulgurite.vocabulary import select_tokens, shrink_embeddings, shrink_tokenizer, token_counts

ROWS = 50
KEPT = torch.tensor([0, 1, 2, 3, 5, 8, 13, 21, 34, 49])  # the special ids of the defaults, and some
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BART = {
    **{
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", 1), ("ffn_dim", 24), ("attention_heads", 2))
    },
    "d_model": 16,
    "max_position_embeddings": 40,
}
NETWORKS: dict[str, Any] = {
    "llama-tied": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=ROWS, **SMALL, tie_word_embeddings=True, pad_token_id=0)
    ),
    "llama-untied": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=ROWS, **SMALL, tie_word_embeddings=False)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=ROWS, n_embd=16, n_layer=1, n_head=2, n_positions=40, bos_token_id=3, eos_token_id=3
        )
    ),
    "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=ROWS, **SMALL)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(vocab_size=ROWS, **SMALL)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=ROWS, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    ),
    "bart": lambda: BartForConditionalGeneration(BartConfig(vocab_size=ROWS, **BART)),
}


def randomised(network: Any) -> Any:
    """With biases that are not zero, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*network.parameters(), *(b for n, b in network.named_buffers() if "bias" in n)]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return network.eval()


def logits(network: Any, ids: torch.Tensor) -> torch.Tensor:
    decoder = {"decoder_input_ids": ids} if network.config.is_encoder_decoder else {}
    with torch.inference_mode():
        found: torch.Tensor = network(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder).logits
    return found


@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_logits_of_kept_tokens_stay(kind: str, tmp_path: Path) -> None:
    network = randomised(NETWORKS[kind]())
    ids = torch.tensor([[2, 5, 9, 6, 4, 7], [3, 8, 9, 4, 4, 5]])  # new ones
    expected = logits(network, KEPT[ids])
    tied, weights = tied_names(network), sum(weight.numel() for weight in network.parameters())
    shrink_embeddings(network, KEPT)
    found = logits(network, ids)
    torch.testing.assert_close(found, expected[..., KEPT], atol=1e-6, rtol=1e-5)  # rows of a matrix product
    assert found.shape[-1] == network.config.vocab_size == len(KEPT)
    assert tied_names(network) == tied
    assert sum(weight.numel() for weight in network.parameters()) < weights
    assert not [name for name, weight in network.named_parameters() if ROWS in weight.shape]
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, ids), found)


def test_an_encoder_has_no_head() -> None:
    network = randomised(BertModel(BertConfig(vocab_size=ROWS, **SMALL)))
    ids = torch.tensor([[2, 9, 4]])
    with torch.inference_mode():
        expected = network(input_ids=KEPT[ids]).last_hidden_state
        shrink_embeddings(network, KEPT)
        assert torch.equal(network(input_ids=ids).last_hidden_state, expected)
    assert network.get_input_embeddings().num_embeddings == len(KEPT)


def test_ids_that_a_module_took_from_its_configuration_follow() -> None:
    # this encoder's result is its vector at the end token, by an id that the module keeps
    config = CLIPTextConfig(
        vocab_size=ROWS, **SMALL, max_position_embeddings=9, bos_token_id=34, eos_token_id=49
    )
    network = randomised(CLIPTextModel(config))
    ids = torch.tensor([[8, 5, 9, 6]])
    with torch.inference_mode():
        expected = network(input_ids=KEPT[ids]).pooler_output
        shrink_embeddings(network, KEPT)
        torch.testing.assert_close(network(input_ids=ids).pooler_output, expected, atol=1e-6, rtol=0)
    assert (network.config.bos_token_id, network.config.eos_token_id) == (8, 9)


def test_ids_in_the_configurations_follow() -> None:
    config = LlamaConfig(vocab_size=ROWS, **SMALL, bos_token_id=5, eos_token_id=[8, 9, 13], pad_token_id=4)
    network = LlamaForCausalLM(config)
    network.generation_config.suppress_tokens = [21, 22]
    network.generation_config.bad_words_ids = [[34, 49], [34, 35]]
    shrink_embeddings(network, KEPT)
    for told in (network.config, network.generation_config):
        assert (told.bos_token_id, told.eos_token_id, told.pad_token_id) == (4, [5, 6], None)  # 4 is gone
    assert network.generation_config.suppress_tokens == [7]
    assert network.generation_config.bad_words_ids == [[8, 9]]
    assert network.model.embed_tokens.padding_idx is None
    assert network.model.vocab_size == network.vocab_size == len(KEPT)


def test_it_trains_and_generates() -> None:
    network = NETWORKS["llama-tied"]()
    shrink_embeddings(network, KEPT)
    ids = torch.tensor([[2, 5, 9, 6]])
    network(input_ids=ids, labels=ids).loss.backward()
    assert network.get_input_embeddings().weight.grad.shape == (len(KEPT), 16)
    assert int(network.generate(ids, max_new_tokens=8, do_sample=False).max()) < len(KEPT)


def test_dtype_and_frozen_weights_stay() -> None:
    network = NETWORKS["llama-tied"]().half().requires_grad_(False)
    shrink_embeddings(network, KEPT)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert network.lm_head.weight.dtype == torch.float16
    assert not network.lm_head.weight.requires_grad


@pytest.mark.parametrize(
    ("old_ids", "message"),
    [
        (
            torch.tensor([0, 50]),
            r"old_ids must be in \[0, 50\), the rows of the input embedding, got 0 to 50",
        ),
        (torch.tensor([-1, 3]), "got -1 to 3"),
        (torch.tensor([3, 3]), "old_ids must have each id once, got 1 again"),
        (torch.tensor([0.5]), r"old_ids must be integers \[n\], n from 1, got torch.float32 \[1\]"),
        (torch.tensor([], dtype=torch.int64), r"got torch.int64 \[0\]"),
    ],
)
def test_ids_that_are_no_rows_are_refused(old_ids: torch.Tensor, message: str) -> None:
    network = NETWORKS["llama-tied"]()
    with pytest.raises(ValueError, match=message):
        shrink_embeddings(network, old_ids)
    assert network.config.vocab_size == network.get_input_embeddings().num_embeddings == ROWS


def test_positions_that_would_shift_are_refused() -> None:
    network = NETWORKS["roberta"]()  # counts positions from its padding's id, 1
    with pytest.raises(
        ValueError, match="position_embeddings: positions are counted .* must stay 1, got 0 for it"
    ):
        shrink_embeddings(network, torch.tensor([1, 2, 3]))
    assert network.config.vocab_size == ROWS


def test_a_second_embedding_of_tokens_is_refused() -> None:
    network = NETWORKS["llama-tied"]()
    network.model.further = nn.Embedding(ROWS, 4)
    with pytest.raises(
        ValueError, match="model.further: expected one embedding of tokens, found a second with 50"
    ):
        shrink_embeddings(network, KEPT)


def test_a_real_network_keeps_its_logits(shared_data: Path, lines: list[str], tmp_path: Path) -> None:
    folder = shared_data / "models" / "books6m"
    network, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    counts = token_counts(tokenizer, lines)  # type: ignore[arg-type]
    shrunk, old_ids = shrink_tokenizer(tokenizer, select_tokens(tokenizer, 2048, counts))  # type: ignore[arg-type]
    kept = set(old_ids.tolist())
    text = next(line for line in lines if len(line) > 60 and kept >= set(tokenizer(line)["input_ids"]))
    expected = logits(network, torch.tensor([tokenizer(text)["input_ids"]]))
    shrink_embeddings(network, old_ids)
    ids = torch.tensor([shrunk(text)["input_ids"]])
    torch.testing.assert_close(logits(network, ids), expected[..., old_ids], atol=1e-4, rtol=0)
    network.save_pretrained(tmp_path)
    shrunk.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    again = load_tokenizer(tmp_path)
    assert again(text)["input_ids"] == ids[0].tolist()
    torch.testing.assert_close(logits(loaded, ids), expected[..., old_ids], atol=1e-4, rtol=0)
