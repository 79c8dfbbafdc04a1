"""A network is loaded whole or not at all."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fulgurite.models import (
    build_causal_lm,
    load_causal_lm,
    load_tokenizer,
    tied_names,
    unique_parameters,
)

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG = {"model_type": "llama", "vocab_size": 40, **SIZES}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build_causal_lm({**CONFIG, "tie_word_embeddings": True}).save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_network_comes_back_in_the_dtype_asked_for(saved: Path) -> None:
    network = load_causal_lm(saved)
    assert not network.training
    stored = load_file(saved / "model.safetensors")
    for name, weight in network.named_parameters():
        assert torch.equal(weight, stored[name]), name
    assert load_causal_lm(str(saved), dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("broken", ["missing", "narrow"])
def test_weights_that_are_missing_or_of_another_shape_are_refused(saved: Path, broken: str) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights = load_file(saved / "model.safetensors")
    if broken == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:-1].contiguous()
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 weights are missing or of another shape: {name}"):
        load_causal_lm(saved)


def test_a_folder_without_config_or_weights_says_what_it_has(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").rename(saved / "kept.bak")
    with pytest.raises(FileNotFoundError, match=r"expected weights \(model.safetensors\), found config.json"):
        load_causal_lm(saved)
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected config.json with a causal language model, found "):
        load_causal_lm(saved)
    with pytest.raises(FileNotFoundError, match=r"expected tokenizer\.json, found"):
        load_tokenizer(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (json.dumps({"model_type": "clip"}), "expected a causal language model .*, found 'clip'"),
        (json.dumps(["llama"]), "expected a causal language model .*, found None"),
        ("{", "not JSON"),
    ],
)
def test_a_foreign_config_is_refused(saved: Path, config: str, message: str) -> None:
    (saved / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_causal_lm(saved)


def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for source in (tmp_path / "none", str(tmp_path / "none"), "./none", "../a/b"):
        with pytest.raises(FileNotFoundError, match=r"expected a folder with config.json .*, found nothing"):
            load_causal_lm(source)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="found a file"):
        load_causal_lm(tmp_path / "file")


def test_tied_parameters_are_named_once() -> None:
    tied = build_causal_lm({**CONFIG, "tie_word_embeddings": True})
    assert tied_names(tied) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in unique_parameters(tied)
    untied = build_causal_lm({**CONFIG, "tie_word_embeddings": False})
    assert tied_names(untied) == {}
    assert len(unique_parameters(untied)) == len(unique_parameters(tied)) + 1


def test_a_new_network_is_decided_by_the_seed() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(unique_parameters(build_causal_lm(CONFIG)))
    assert all(torch.equal(weight, networks[1][name]) for name, weight in networks[0].items())


def test_a_config_without_type_or_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config\.model_type must be a causal language model .* got None"):
        build_causal_lm({"hidden_size": 16})
    with pytest.raises(ValueError, match="config needs vocab_size"):
        build_causal_lm({"model_type": "llama", **SIZES})
    assert build_causal_lm({"model_type": "llama", **SIZES}, 50).config.vocab_size == 50


def test_a_real_network_is_loaded_and_predicts() -> None:
    root = Path(os.environ.get("FULGURITE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = root / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs the shared data (FULGURITE_DATA)")
    network, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    assert sum(weight.numel() for weight in unique_parameters(network).values()) == 260_032
    ids = torch.tensor([tokenizer("Once upon a time, there was a little")["input_ids"]])
    with torch.inference_mode():
        continued = network.generate(ids, max_new_tokens=4, do_sample=False)
    assert "girl" in tokenizer.decode(continued[0])
